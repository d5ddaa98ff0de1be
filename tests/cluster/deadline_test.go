// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestDeadlineIsTheClients: a call's deadline is the client's to notice. clientv3 takes DEADLINE_EXCEEDED before its own
// clock says so for a time-out between it and the member, and sends the request to the next member, also when it is a
// write: one that was proposed already is then made twice. So a member may not answer it early, not even by a
// millisecond. (etcd 3.7.1 does, for about 8 of 100 such calls.) Writes to a member without a leader wait, and each waits
// for another time, which is long enough for calls to come while they have some: one that comes late on a busy machine is
// refused, and was not proposed.
func TestDeadlineIsTheClients(t *testing.T) {
	rng := newRand(t)
	c := harness.StartCluster(t, slices.Repeat([]harness.Kind{harness.Cairn}, 3))
	member := c.Current()[0]
	for _, m := range but(c.Current(), member) {
		c.Kill(m)
	}
	const callers, calls = 50, 20
	var early, late atomic.Int32
	var all sync.WaitGroup
	for range callers {
		mine := rand.New(rand.NewPCG(rng.Uint64(), 0))
		all.Go(func() {
			for range calls {
				limit := time.Duration(150_000+mine.IntN(50_000)) * time.Microsecond
				ctx, cancel := context.WithTimeout(context.Background(), limit)
				_, err := member.KV().Put(ctx, &pb.PutRequest{Key: []byte("k")})
				deadline, _ := ctx.Deadline() // What ends the context may be late itself.
				switch over := !time.Now().Before(deadline); {
				case err == nil:
					t.Error("a write was acknowledged without a quorum")
				case over || status.Code(err) != codes.DeadlineExceeded:
					late.Add(1)
				default:
					early.Add(1)
				}
				cancel()
			}
		})
	}
	all.Wait()
	if early.Load() > 0 {
		t.Errorf("%d of %d calls were answered before the client's time was over", early.Load(), early.Load()+late.Load())
	}
}
