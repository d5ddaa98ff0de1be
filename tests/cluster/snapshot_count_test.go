// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// putKeys puts so many keys, one after the other.
func putKeys(t *testing.T, m *harness.Member, prefix string, n int) {
	t.Helper()
	ctx := harness.Context(t, time.Minute)
	for i := range n {
		if _, err := m.KV().Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "%s/%d", prefix, i), Value: []byte("v")}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSnapshotCount: what etcd's users expect of the two flags. A follower that missed more entries than are kept comes
// back by snapshot, of either kind from either; one that missed fewer by entries; and each Cairn has made its state
// durable meanwhile, as often as the count says.
func TestSnapshotCount(t *testing.T) {
	for _, kinds := range [][]harness.Kind{
		asAll(harness.Cairn, harness.Cairn, harness.Cairn),
		asAll(harness.Cairn, harness.Cairn, harness.Etcd),
		asAll(harness.Etcd, harness.Cairn, harness.Cairn),
	} {
		t.Run(fmt.Sprintf("%s-follows-%s", kinds[2], kinds[0]), func(t *testing.T) {
			c := harness.StartCluster(t, kinds, "--snapshot-count=100", "--snapshot-catchup-entries=10", steady)
			leader, follower := c.Members[0], c.Members[2]
			c.MoveLeader(leader)
			missAndReturn(t, c, follower, 500)
			missAndReturn(t, c, follower, 5)
			c.CompareHashes(c.WaitConverged())
		})
	}
}

// missAndReturn kills a follower, puts and starts it again: it gets a snapshot if it missed more than is kept.
func missAndReturn(t *testing.T, c *harness.Cluster, follower *harness.Member, puts int) {
	t.Helper()
	leader, from := c.WaitLeader(), logSize(follower)
	leading := logSize(leader)
	c.WaitConverged() // So that it has missed nothing before.
	c.Kill(follower)
	putKeys(t, leader, "key", puts)
	c.Restart(follower)
	c.WaitReady(follower)
	if puts <= 10 {
		notSaid(t, follower, from, "received and saved database snapshot")
		return
	}
	waitSaid(t, follower, from, "received and saved database snapshot")
	waitSaid(t, leader, leading, "sent database snapshot")
	waitSaid(t, leader, leading, "triggering snapshot")
	waitSaid(t, leader, leading, "saved snapshot to disk")
}

func notSaid(t *testing.T, m *harness.Member, from int64, phrase string) {
	t.Helper()
	text, err := tail(m.LogPath(), from)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, phrase) {
		t.Errorf("%s says %q; %s", m.Name, phrase, m.LogTail(20))
	}
}
