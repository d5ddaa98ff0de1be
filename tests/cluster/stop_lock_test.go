// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	v3lockpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

const (
	stopLocks   = 5
	lockWaiters = 4 // Of each lock.
	// keyPatience is for a stop that has nothing to wait for but keys that it can't delete; a request times out after seven seconds.
	keyPatience = 5 * time.Second
	// readPatience is for one that waits for that time-out, of a read index; and not for a key after it.
	readPatience = 12 * time.Second
)

func lockName(i int) string { return fmt.Sprintf("stop/%d", i) }

// lockKeys returns how many keys the locks have, as the member has them itself.
func lockKeys(ctx context.Context, t *testing.T, m *harness.Member) int64 {
	t.Helper()
	r, err := m.KV().Range(ctx, &pb.RangeRequest{Key: []byte("stop/"), RangeEnd: []byte("stop0"), CountOnly: true, Serializable: true})
	if err != nil {
		t.Fatal(err)
	}
	return r.Count
}

func waitLockKeys(ctx context.Context, t *testing.T, m *harness.Member, n int64) {
	t.Helper()
	for deadline := time.Now().Add(stopLimit); lockKeys(ctx, t, m) != n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s has %d keys of locks, not %d; %s", m.Name, lockKeys(ctx, t, m), n, m.LogTail(20))
		}
	}
}

// holdLocks takes the locks through one member, lets Lock calls of another wait for them, and returns the holders' keys.
func holdLocks(ctx context.Context, t *testing.T, holder, waiter *harness.Member) (keys [][]byte) {
	t.Helper()
	for i := range stopLocks {
		r, err := v3lockpb.NewLockClient(holder.Conn).Lock(ctx, &v3lockpb.LockRequest{Name: []byte(lockName(i))})
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, r.Key)
		for range lockWaiters {
			go v3lockpb.NewLockClient(waiter.Conn).Lock(ctx, &v3lockpb.LockRequest{Name: []byte(lockName(i))})
		}
	}
	waitLockKeys(ctx, t, waiter, stopLocks*(1+lockWaiters))
	return keys
}

func clearLocks(ctx context.Context, t *testing.T, m *harness.Member) {
	t.Helper()
	if _, err := m.KV().DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("stop/"), RangeEnd: []byte("stop0")}); err != nil {
		t.Fatal(err)
	}
}

// stopWaiters stops a follower that has waiters, and returns how many keys of locks are left then.
func stopWaiters(ctx context.Context, t *testing.T, c *harness.Cluster) (left int64) {
	t.Helper()
	leader := c.WaitLeader()
	follower := but(c.Current(), leader)[0]
	holdLocks(ctx, t, leader, follower)
	stopWithin(t, follower, keyPatience, "a follower with waiters")
	left = lockKeys(ctx, t, leader)
	clearLocks(ctx, t, leader)
	c.Restart(follower)
	c.WaitReady(follower)
	return left
}

// TestStopWithLocks: a stop deletes the keys of those who wait for a lock, if there is a quorum, and does not wait for that if
// there is none.
func TestStopWithLocks(t *testing.T) {
	c := harness.StartCluster(t, []harness.Kind{harness.Cairn, harness.Cairn, harness.Cairn})
	ctx := harness.Context(t, 5*time.Minute)

	var left int64
	for tries := 0; tries < 3 && left != stopLocks; tries++ { // A stop waits for a deletion as long as an election takes.
		left = stopWaiters(ctx, t, c)
	}
	if left != stopLocks {
		t.Errorf("a follower with waiters has stopped, and %d keys are left, not the %d holders'", left, stopLocks)
	}

	leader := c.WaitLeader()
	others := but(c.Current(), leader)
	holdLocks(ctx, t, leader, leader)
	for _, m := range others {
		c.Kill(m)
	}
	waitLeaderless(t, leader)
	stopWithin(t, leader, keyPatience, "without a quorum, with waiters")
	for _, m := range c.Current() {
		c.Restart(m)
	}
	c.WaitReady(c.Current()...)

	// The follower hears that its waiters are the next ones, and can't ask whether they are.
	leader = c.WaitLeader()
	clearLocks(ctx, t, leader)
	others = but(c.Current(), leader)
	follower := others[0]
	keys := holdLocks(ctx, t, leader, follower)
	c.Net.Hold(follower.Index, leader.Index)
	c.Net.Hold(follower.Index, others[1].Index)
	for _, key := range keys {
		if _, err := v3lockpb.NewLockClient(leader.Conn).Unlock(ctx, &v3lockpb.UnlockRequest{Key: key}); err != nil {
			t.Fatal(err)
		}
	}
	waitLockKeys(ctx, t, follower, stopLocks*lockWaiters)
	c.Kill(leader)
	c.Kill(others[1])
	stopWithin(t, follower, readPatience, "without a quorum, with waiters whose turn it may be")
}
