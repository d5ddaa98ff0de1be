// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	v3lockpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

// stopLimit is for a stop in good order, whatever a member is in the middle of; it forces one that takes 15 seconds.
const stopLimit = 14 * time.Second

// occupy opens what a stop has to end: calls of each kind that wait for something. What they are answered is not looked at.
func occupy(ctx context.Context, m *harness.Member) {
	watch, err := pb.NewWatchClient(m.Conn).Watch(ctx)
	if err == nil {
		watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
			CreateRequest: &pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("z"), ProgressNotify: true}}})
	}
	if alive, err := pb.NewLeaseClient(m.Conn).LeaseKeepAlive(ctx); err == nil {
		alive.Send(&pb.LeaseKeepAliveRequest{ID: 7})
	}
	for i := 0; i < 20; i++ {
		go m.KV().Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: []byte("v")})
		go m.KV().Range(ctx, &pb.RangeRequest{Key: []byte("k")})
		go pb.NewLeaseClient(m.Conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60})
		go v3lockpb.NewLockClient(m.Conn).Lock(ctx, &v3lockpb.LockRequest{Name: []byte("lock")})
	}
	go m.Client().MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:1"}, IsLearner: true})
}

func stopInTime(t *testing.T, m *harness.Member, state string) {
	t.Helper()
	stopWithin(t, m, stopLimit, state)
}

func stopWithin(t *testing.T, m *harness.Member, limit time.Duration, state string) {
	t.Helper()
	from := time.Now()
	_, err := m.Terminate()
	if took := time.Since(from); err != nil || took > limit {
		t.Errorf("%s: the stop took %v, %v; %s", state, took, err, m.LogTail(20))
	} else {
		t.Logf("%s: the stop took %v", state, took.Round(time.Millisecond))
	}
	if tail := m.LogTail(20); strings.Contains(tail, "the stop did not end in time") {
		t.Errorf("%s: the stop had to be forced; %s", state, tail)
	}
}

func waitLeaderless(t *testing.T, m *harness.Member) {
	t.Helper()
	for deadline := time.Now().Add(stopLimit); ; time.Sleep(20 * time.Millisecond) {
		if s, err := m.Status(); err == nil && s.Leader == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s still has a leader; %s", m.Name, m.LogTail(20))
		}
	}
}

func logSize(m *harness.Member) int64 {
	info, err := os.Stat(m.LogPath())
	if err != nil {
		return 0
	}
	return info.Size()
}

// waitSaid waits until the member's log, from an offset on, has a phrase.
func waitSaid(t *testing.T, m *harness.Member, from int64, phrase string) {
	t.Helper()
	for deadline := time.Now().Add(3 * stopLimit); ; time.Sleep(5 * time.Millisecond) {
		if text, err := tail(m.LogPath(), from); err == nil && strings.Contains(text, phrase) {
			return
		}
		if time.Now().After(deadline) || !m.Alive() {
			t.Fatalf("%s (running: %v) doesn't say %q; %s", m.Name, m.Alive(), phrase, m.LogTail(20))
		}
	}
}

// TestStopInEveryState: SIGTERM ends a member soon, whether it follows, leads, has lost its quorum, has never had one,
// hears nothing of its leader, or has only just been started; with calls of all kinds under way.
func TestStopInEveryState(t *testing.T) {
	c := harness.StartCluster(t, []harness.Kind{harness.Cairn, harness.Cairn, harness.Cairn})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()

	leader := c.WaitLeader()
	follower := but(c.Current(), leader)[0]
	occupy(ctx, follower)
	stopInTime(t, follower, "a follower")
	c.Restart(follower)
	c.WaitReady(follower)

	leader = c.WaitLeader()
	occupy(ctx, leader)
	stopInTime(t, leader, "a leader")
	c.Restart(leader)
	c.WaitReady(leader)

	leader = c.WaitLeader()
	others := but(c.Current(), leader)
	occupy(ctx, leader)
	for _, m := range others {
		c.Kill(m)
	}
	waitLeaderless(t, leader)
	occupy(ctx, leader)
	stopInTime(t, leader, "without a quorum")

	// It serves no client until it has a leader: what waits is its own work.
	from := logSize(leader)
	c.Restart(leader)
	waitSaid(t, leader, from, "prober detected unhealthy status") // By then it has asked for votes, too.
	stopInTime(t, leader, "has had no leader yet")

	from = logSize(leader)
	c.Restart(leader)
	waitSaid(t, leader, from, "starting an etcd-compatible server")
	stopInTime(t, leader, "just started")

	for _, m := range c.Current() {
		c.Restart(m)
	}
	c.WaitReady(c.Current()...)
	leader = c.WaitLeader()
	follower = but(c.Current(), leader)[0]
	c.Pause(leader)
	occupy(ctx, follower)
	stopInTime(t, follower, "behind a leader that is paused")
	c.Resume(leader)
}
