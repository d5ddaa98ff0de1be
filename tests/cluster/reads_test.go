// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// mirror writes through some members without a break and reads through one, without a break too, and also asks it
// before it can answer: while it stands still. No answer may be older than what had been acknowledged when it was
// asked for.
type mirror struct {
	t            *testing.T
	cancel       context.CancelFunc
	done         sync.WaitGroup
	acknowledged atomic.Int64 // The highest revision.
	reads        atomic.Int64
	lagging      atomic.Int64 // Reads that could have been stale: something was acknowledged since the one before.
}

func startMirror(t *testing.T, through []*harness.Member, of *harness.Member) *mirror {
	ctx, cancel := context.WithCancel(context.Background())
	x := &mirror{t: t, cancel: cancel}
	for i, m := range through {
		x.done.Add(1)
		go func() {
			defer x.done.Done()
			x.write(ctx, m, i)
		}()
	}
	for range 6 {
		x.done.Add(1)
		go func() {
			defer x.done.Done()
			x.read(ctx, of)
		}()
	}
	return x
}

func (x *mirror) stop() {
	x.cancel()
	x.done.Wait()
}

func (x *mirror) write(ctx context.Context, m *harness.Member, id int) {
	for n := 0; ctx.Err() == nil; n++ {
		call, done := context.WithTimeout(ctx, time.Second)
		resp, err := m.KV().Put(call, &pb.PutRequest{Key: []byte("mirror"), Value: []byte(fmt.Sprintf("%d.%d", id, n))})
		done()
		if err == nil {
			raise(&x.acknowledged, resp.Header.Revision)
		}
		time.Sleep(4 * time.Millisecond)
	}
}

func raise(v *atomic.Int64, to int64) {
	for {
		old := v.Load()
		if old >= to || v.CompareAndSwap(old, to) {
			return
		}
	}
}

func (x *mirror) read(ctx context.Context, m *harness.Member) {
	before := int64(0)
	for ctx.Err() == nil {
		floor := x.acknowledged.Load()
		call, done := context.WithTimeout(ctx, 12*time.Second)
		resp, err := m.KV().Range(call, &pb.RangeRequest{Key: []byte("mirror")}, grpc.WaitForReady(true))
		done()
		if err != nil {
			continue
		}
		x.reads.Add(1)
		if floor > before {
			x.lagging.Add(1)
		}
		before = resp.Header.Revision
		if resp.Header.Revision < floor || len(resp.Kvs) == 1 && resp.Kvs[0].ModRevision < floor {
			x.t.Errorf("stale: revision %d, key changed at %v, but %d had been acknowledged before the call",
				resp.Header.Revision, resp.Kvs, floor)
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// waitWrites waits until writes have been acknowledged anew.
func (x *mirror) waitWrites(count int64) {
	x.t.Helper()
	from := x.acknowledged.Load()
	for deadline := time.Now().Add(20 * time.Second); x.acknowledged.Load() < from+count; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			x.t.Fatal("no writes are acknowledged")
		}
	}
}

// TestNoStaleReads takes a member out of touch in several ways, for longer than an election timeout, while clients
// keep asking it, and brings it back while the others go on.
func TestNoStaleReads(t *testing.T) {
	rng := newRand(t)
	c := harness.StartCluster(t, kindsFor(rng, 3))
	for _, x := range []struct {
		name      string
		leader    bool
		out, back func(m *harness.Member)
	}{
		{"leader-stopped", true, c.Pause, c.Resume},
		{"follower-stopped", false, c.Pause, c.Resume},
		{"leader-parted", true, func(m *harness.Member) { isolate(c, m) }, func(*harness.Member) { c.Net.Heal(false) }},
		{"leader-parted-messages-late", true, func(m *harness.Member) { isolate(c, m) },
			func(*harness.Member) { c.Net.Heal(true) }},
		{"leader-parted-and-stopped", true, func(m *harness.Member) { isolate(c, m); c.Pause(m) },
			func(m *harness.Member) { c.Resume(m); time.Sleep(50 * time.Millisecond); c.Net.Heal(true) }},
	} {
		t.Run(x.name, func(t *testing.T) {
			c.In(t)
			for range 3 {
				m := c.WaitLeader()
				if !x.leader {
					m = but(c.Current(), m)[rng.IntN(2)]
				}
				others := but(c.Current(), m)
				w := startMirror(t, others, m)
				w.waitWrites(20)
				x.out(m)
				c.WaitLeaderAmong(others...)
				w.waitWrites(50)
				time.Sleep(time.Duration(rng.Int64N(int64(1500 * time.Millisecond))))
				x.back(m)
				w.waitWrites(100)
				w.stop()
				c.WaitReady(c.Current()...)
				t.Logf("%d reads, %d of them after something new was acknowledged", w.reads.Load(), w.lagging.Load())
			}
		})
	}
}

// isolate holds all that a member sends and is sent.
func isolate(c *harness.Cluster, m *harness.Member) {
	for _, other := range but(c.Current(), m) {
		c.Net.Hold(m.Index, other.Index)
		c.Net.Hold(other.Index, m.Index)
	}
}

// TestStalledFollowerDisturbsNobody stops a follower for longer than an election timeout. When it goes on it must
// neither start an election nor make one necessary. Another reason for an election is possible on a busy machine, so
// one quiet try of three is enough.
func TestStalledFollowerDisturbsNobody(t *testing.T) {
	rng := newRand(t)
	c := harness.StartCluster(t, kindsFor(rng, 3))
	for range 3 {
		leader := c.WaitLeader()
		before, err := leader.Status()
		if err != nil {
			t.Fatal(err)
		}
		m := but(c.Current(), leader)[rng.IntN(2)]
		c.Pause(m)
		time.Sleep(4 * time.Second)
		c.Resume(m)
		c.WaitFollows(m)
		time.Sleep(2500 * time.Millisecond) // An election would come now.
		after, err := c.WaitLeader().Status()
		if err != nil {
			t.Fatal(err)
		}
		if after.Leader == before.Leader && after.RaftTerm == before.RaftTerm {
			return
		}
		t.Logf("leader %x of term %d became %x of %d", before.Leader, before.RaftTerm, after.Leader, after.RaftTerm)
	}
	t.Error("each time a follower was stopped and went on, there was an election")
}
