// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	leaseTTL  = 5                // Seconds, of a lease that is to end.
	leaseLate = 2 * time.Second  // Its keys are gone that long after its time,
	leaseSlow = 10 * time.Second // and so much later on a machine that is busy: an election gives it its whole time again.
)

// leases is a test's view of a cluster.
type leases struct {
	t   *testing.T
	c   *harness.Cluster
	ctx context.Context
}

func (l *leases) client(m *harness.Member) pb.LeaseClient { return pb.NewLeaseClient(m.Conn) }

func (l *leases) grant(m *harness.Member, id, ttl int64) {
	l.t.Helper()
	if err := grant(l.ctx, m, id, ttl); err != nil {
		l.t.Fatalf("grant through %s (%s): %v", m.Name, m.Kind, err)
	}
}

// grant grants a lease; perhaps an earlier try, which got no answer, did.
func grant(ctx context.Context, m *harness.Member, id, ttl int64) error {
	tries := 0
	return insist(func() error {
		tries++
		_, err := pb.NewLeaseClient(m.Conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: ttl})
		if tries > 1 && errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseExist) {
			return nil
		}
		return err
	})
}

func (l *leases) put(m *harness.Member, key string, lease int64) {
	l.t.Helper()
	err := insist(func() error {
		_, err := m.KV().Put(l.ctx, &pb.PutRequest{Key: []byte(key), Value: []byte("v"), Lease: lease})
		return err
	})
	if err != nil {
		l.t.Fatalf("put through %s (%s): %v", m.Name, m.Kind, err)
	}
}

// renew sends one keep-alive on a stream of its own.
func (l *leases) renew(m *harness.Member, id int64) (int64, error) {
	stream, err := l.client(m).LeaseKeepAlive(l.ctx)
	if err != nil {
		return 0, err
	}
	defer stream.CloseSend()
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
		return 0, err
	}
	resp, err := stream.Recv()
	if err != nil {
		return 0, err
	}
	if resp.ID != id || resp.Header.GetMemberId() != m.ID || resp.Header.GetRevision() == 0 {
		l.t.Errorf("keep-alive through %s (%s): %v", m.Name, m.Kind, resp)
	}
	return resp.TTL, nil
}

func (l *leases) renews(m *harness.Member, id, ttl int64) {
	l.t.Helper()
	if got, err := l.renew(m, id); err != nil || got != ttl {
		l.t.Errorf("keep-alive of %d through %s (%s): TTL %d, %v; not %d", id, m.Name, m.Kind, got, err, ttl)
	}
}

// renewsAtOnce asks for many keep-alives before it reads the first answer.
func (l *leases) renewsAtOnce(m *harness.Member, id, ttl int64) {
	const n = 50
	l.t.Helper()
	stream, err := l.client(m).LeaseKeepAlive(l.ctx)
	for i := int64(0); i < n && err == nil; i++ {
		err = stream.Send(&pb.LeaseKeepAliveRequest{ID: id + i%2})
	}
	if err == nil {
		err = stream.CloseSend()
	}
	for i := int64(0); i < n && err == nil; i++ {
		var got *pb.LeaseKeepAliveResponse
		if got, err = stream.Recv(); err == nil && (got.ID != id+i%2 || got.TTL != ttl*(1-i%2)) {
			l.t.Errorf("keep-alive %d of %d through %s (%s): %v", i, n, m.Name, m.Kind, got)
		}
	}
	if err != nil {
		l.t.Errorf("%d keep-alives through %s (%s): %v", n, m.Name, m.Kind, err)
	}
}

// left asks for the time left and the keys.
func (l *leases) left(m *harness.Member, id int64) *pb.LeaseTimeToLiveResponse {
	l.t.Helper()
	resp, err := l.client(m).LeaseTimeToLive(l.ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
	if err != nil {
		l.t.Fatalf("time to live of %d through %s (%s): %v", id, m.Name, m.Kind, err)
	}
	if resp.ID != id || resp.Header.GetMemberId() != m.ID || resp.Header.GetRevision() == 0 {
		l.t.Errorf("time to live through %s (%s): %v", m.Name, m.Kind, resp)
	}
	return resp
}

func (l *leases) there(m *harness.Member, key string) bool {
	l.t.Helper()
	var resp *pb.RangeResponse
	err := insist(func() (err error) {
		resp, err = m.KV().Range(l.ctx, &pb.RangeRequest{Key: []byte(key), CountOnly: true})
		return err
	})
	if err != nil {
		l.t.Fatalf("range through %s: %v", m.Name, err)
	}
	return resp.Count > 0
}

// ends waits for a key to go, which must not happen before `early` and not much later.
func (l *leases) ends(m *harness.Member, key string, early time.Time, late time.Duration) {
	l.t.Helper()
	for l.there(m, key) {
		if time.Since(early) > late+leaseSlow {
			l.t.Fatalf("%s is still there %v after its lease should have ended", key, time.Since(early))
		}
		time.Sleep(20 * time.Millisecond)
	}
	if now := time.Now(); now.Before(early) {
		l.t.Errorf("%s was gone %v too early", key, early.Sub(now))
	} else if now.Sub(early) > late {
		l.t.Logf("%s was gone %v after the end of its lease: a slow machine?", key, now.Sub(early))
	}
}

// TestLeases asks every member for leases while each kind leads: keep-alives and questions go to the leader from
// followers of either kind.
func TestLeases(t *testing.T) {
	kinds := asAll(harness.Cairn, harness.Etcd, harness.Cairn)
	c := harness.StartCluster(t, kinds, steady)
	for i, leads := range c.Members {
		if i > 0 && !mixed() {
			break
		}
		t.Run(fmt.Sprintf("%s-%s-leads", leads.Name, leads.Kind), func(t *testing.T) {
			c.In(t)
			c.MoveLeader(leads)
			l := &leases{t, c, harness.Context(t, 2*time.Minute)}
			l.expiry(leads, int64(100*i+1000)) // First, since leases may have more time as long as a leader is new.
			for k, through := range c.Members {
				l.through(through, int64(100*i+10*k+1))
			}
		})
	}
	c.In(t)
	c.CompareHashes(c.WaitConverged())
}

func (l *leases) through(m *harness.Member, id int64) {
	key := fmt.Sprintf("lease-%d", id)
	l.grant(m, id, 60)
	l.put(m, key+"/a", id)
	l.put(m, key+"/b", id)
	l.renews(m, id, 60)
	l.renews(m, id+5, 0)
	l.renewsAtOnce(m, id, 60)
	got := l.left(m, id)
	var keys []string
	for _, k := range got.Keys {
		keys = append(keys, string(k))
	}
	if got.GrantedTTL != 60 || got.TTL < 50 || got.TTL > 60 || len(keys) != 2 || !strings.Contains(strings.Join(keys, " "), key+"/b") {
		l.t.Errorf("through %s (%s): %d of %d left, keys %q", m.Name, m.Kind, got.TTL, got.GrantedTTL, keys)
	}
	if got := l.left(m, id+5); got.TTL != -1 || got.GrantedTTL != 0 || len(got.Keys) != 0 {
		l.t.Errorf("through %s (%s), no such lease: %v", m.Name, m.Kind, got)
	}
	if _, err := l.client(m).LeaseRevoke(l.ctx, &pb.LeaseRevokeRequest{ID: id}); err != nil {
		l.t.Errorf("revoke through %s (%s): %v", m.Name, m.Kind, err)
	}
	l.renews(m, id, 0)
}

// expiry keeps a lease alive through each member in turn, then lets it end.
func (l *leases) expiry(leads *harness.Member, id int64) {
	key := fmt.Sprintf("lease-%d", id)
	l.grant(leads, id, leaseTTL)
	l.put(leads, key, id)
	var asked time.Time
	for range 2 {
		for _, m := range l.c.Members {
			time.Sleep(leaseTTL * time.Second / 3)
			asked = time.Now()
			l.renews(m, id, leaseTTL)
		}
	}
	if !l.there(leads, key) {
		l.t.Fatalf("%s was gone while its lease was kept alive", key)
	}
	l.ends(leads, key, asked.Add(leaseTTL*time.Second), leaseLate)
	l.renews(leads, id, 0)
}

// TestLeaseLeaderKilled kills the leader shortly before a lease would end. The next leader gives it its whole time and
// then lets it end; one that is kept alive meanwhile stays.
func TestLeaseLeaderKilled(t *testing.T) {
	c := harness.StartCluster(t, asAll(harness.Cairn, harness.Etcd, harness.Cairn))
	leads := c.Members
	if !mixed() {
		leads = leads[:1]
	}
	for i, first := range leads {
		t.Run(fmt.Sprintf("%s-%s-leads", first.Name, first.Kind), func(t *testing.T) {
			c.In(t)
			c.MoveLeader(first)
			l := &leases{t, c, harness.Context(t, 2*time.Minute)}
			l.survive(first, int64(100*(i+1)))
			c.Restart(first)
			c.WaitReady(first)
			c.WaitConverged()
		})
	}
	c.In(t)
	c.CompareHashes(c.WaitConverged())
}

func (l *leases) survive(leader *harness.Member, id int64) {
	asked := l.age(leader, id)
	for tries := 1; tries < 5 && l.c.Leader(l.c.Running()...) != leader; tries++ { // On a machine that stood still.
		l.c.MoveLeader(leader)
		id += 2
		asked = l.age(leader, id)
	}
	l.c.Kill(leader)
	m := l.c.WaitLeader()
	elected := time.Now()
	l.ends(m, shortKey(id), asked.Add(leaseTTL*time.Second), elected.Sub(asked)+time.Second+leaseLate)
	if time.Since(elected) < (leaseTTL-2)*time.Second { // Which was noticed some moments late.
		l.t.Errorf("%s was gone %v after the election: a new leader gives a lease its whole time", shortKey(id),
			time.Since(elected))
	}
	for _, m := range l.c.Running() {
		l.renews(m, id, 0)
		l.renews(m, id+1, 5*leaseTTL)
	}
	if !l.there(m, keptKey(id)) {
		l.t.Errorf("%s was gone while its lease was kept alive", keptKey(id))
	}
}

func shortKey(id int64) string { return fmt.Sprintf("short-%d", id) }
func keptKey(id int64) string  { return fmt.Sprintf("kept-%d", id) }

// age grants a short lease and a long one, with a key on each, and returns when the short one, which will end soon, was
// renewed.
func (l *leases) age(leader *harness.Member, id int64) (asked time.Time) {
	l.grant(leader, id, leaseTTL)
	l.grant(leader, id+1, 5*leaseTTL)
	l.put(leader, shortKey(id), id)
	l.put(leader, keptKey(id), id+1)
	time.Sleep(leaseTTL * time.Second / 3)
	asked = time.Now()
	l.renews(leader, id, leaseTTL)
	time.Sleep((leaseTTL - 2) * time.Second)
	return asked
}

// TestLeaseLeaderPaused stops the leader's process for longer than a lease lives, and keeps the lease alive at the new
// leader. When the old one goes on it finds the lease expired; that must count for nothing.
func TestLeaseLeaderPaused(t *testing.T) {
	c := harness.StartCluster(t, asAll(harness.Cairn, harness.Etcd, harness.Cairn))
	c.MoveLeader(c.Members[0])
	l := &leases{t, c, harness.Context(t, 2*time.Minute)}
	l.grant(c.Members[0], 7, leaseTTL)
	l.put(c.Members[0], "paused", 7)
	c.Pause(c.Members[0])
	m := c.WaitLeader()
	for range 8 {
		l.renews(m, 7, leaseTTL)
		time.Sleep(leaseTTL * time.Second / 4)
	}
	c.Resume(c.Members[0])
	for range 8 {
		time.Sleep(leaseTTL * time.Second / 8)
		l.renews(c.WaitLeader(), 7, leaseTTL)
	}
	if !l.there(m, "paused") {
		t.Error("a leader that was stopped let a lease end that was alive")
	}
	c.CompareHashes(c.WaitConverged())
}

// TestLeaseBesideOneThatWaits: two keep-alives come together, and the leader, which has lost its quorum, must ask that for
// the second, which has no lease. The first is answered all the same.
func TestLeaseBesideOneThatWaits(t *testing.T) {
	c := harness.StartCluster(t, []harness.Kind{harness.Cairn, harness.Cairn, harness.Cairn}, steady)
	l := &leases{t, c, harness.Context(t, time.Minute)}
	leader := c.WaitLeader()
	l.grant(leader, 1, 60)
	stream, err := l.client(leader).LeaseKeepAlive(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(ids ...int64) {
		t.Helper()
		for _, id := range ids {
			if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
				t.Fatal(err)
			}
		}
	}
	answered := func() {
		t.Helper()
		if got, err := stream.Recv(); err != nil || got.ID != 1 || got.TTL < 60 {
			t.Fatalf("keep-alive: %v, %v", got, err)
		}
	}
	ask(1)
	answered()
	for _, m := range c.Members {
		if m != leader {
			c.Pause(m)
		}
	}
	asked := time.Now()
	ask(1, 1, 1, 999)
	for range 3 {
		answered()
	}
	if took := time.Since(asked); took > 6*time.Second { // The other one waits for 11 seconds.
		t.Errorf("answers came after %v", took)
	}
}
