// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// statusText is what Status says that doesn't depend on the machine, the moment or the way data is stored.
func statusText(t *testing.T, s *alone) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := s.maintenance.Status(ctx, &pb.StatusRequest{})
	must(t, err)
	if r.DbSize < r.DbSizeInUse || r.DbSizeInUse <= 0 || r.RaftIndex < r.RaftAppliedIndex || r.RaftAppliedIndex == 0 {
		t.Errorf("%s: sizes %d and %d, indices %d and %d", s.Kind, r.DbSize, r.DbSizeInUse, r.RaftIndex, r.RaftAppliedIndex)
	}
	return fmt.Sprintf("quota=%d version=%s storage=%s leads=%v learner=%v downgrade=%v errors=%v", r.DbSizeQuota, r.Version,
		r.StorageVersion, r.Leader == s.self, r.IsLearner, r.DowngradeInfo, r.Errors)
}

// TestStatusQuota: the quota that Status tells is the one that is in force, whether it is the default, switched off, small, or
// more than etcd advises.
func TestStatusQuota(t *testing.T) {
	for _, args := range [][]string{nil, {"--quota-backend-bytes=0"}, {"--quota-backend-bytes=-1"}, {"--quota-backend-bytes=16777216"},
		{"--quota-backend-bytes=9663676416"}} {
		etcd, cairn := startAlone(t, harness.Etcd, args...), startAlone(t, harness.Cairn, args...)
		// The storage version is known some seconds after the start.
		want, got := soonEqual(patience, etcd, cairn, func(s *alone) string { return statusText(t, s) })
		if want != got {
			t.Errorf("%v\n etcd:  %s\n Cairn: %s", args, want, got)
		}
		etcd.Close()
		cairn.Close()
	}
}
