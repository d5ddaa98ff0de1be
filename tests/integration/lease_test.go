// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// leaseScript asks a server of its own a row of questions with the stock client and returns the answers, one a line.
type leaseScript struct {
	t     *testing.T
	s     *harness.Server
	c     *clientv3.Client
	ctx   context.Context
	asked map[int64]time.Time // When a lease was last granted or renewed, or a moment before.
	lines []string
}

func newLeaseScript(t *testing.T, s *harness.Server) *leaseScript {
	t.Helper()
	return &leaseScript{t: t, s: s, c: newClient(t, s), ctx: harness.Context(t, time.Minute), asked: map[int64]time.Time{}}
}

func (l *leaseScript) say(format string, args ...any) {
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *leaseScript) grant(id, ttl int64) {
	begin := time.Now()
	resp, err := pb.NewLeaseClient(l.c.ActiveConnection()).LeaseGrant(l.ctx, &pb.LeaseGrantRequest{ID: id, TTL: ttl})
	switch {
	case err != nil:
		l.say("grant %d for %d: %v", id, ttl, err)
	case id != 0:
		l.say("grant %d for %d: %d for %d, %q", id, ttl, resp.ID, resp.TTL, resp.Error)
	default:
		l.say("grant any for %d: positive %v, for %d", ttl, resp.ID > 0, resp.TTL)
	}
	if err == nil {
		l.asked[resp.ID] = begin
	}
}

func (l *leaseScript) revoke(id int64) {
	resp, err := l.c.Revoke(l.ctx, clientv3.LeaseID(id))
	if err != nil {
		l.say("revoke %d: %v", id, err)
		return
	}
	l.say("revoke %d: revision %d", id, resp.Header.Revision)
}

func (l *leaseScript) put(key string, lease int64) {
	_, err := l.c.Put(l.ctx, key, "v", clientv3.WithLease(clientv3.LeaseID(lease)))
	l.say("put %s with %d: %v", key, lease, err)
}

func (l *leaseScript) left(id int64) {
	resp, err := l.c.TimeToLive(l.ctx, clientv3.LeaseID(id), clientv3.WithAttachedKeys())
	if err != nil {
		l.say("left of %d: %v", id, err)
		return
	}
	var keys []string // etcd has them in a map.
	for _, k := range resp.Keys {
		keys = append(keys, string(k))
	}
	sort.Strings(keys)
	left := fmt.Sprint(resp.TTL)
	if most := resp.GrantedTTL - 1; most > 0 && resp.TTL <= most && resp.TTL >= most-int64(time.Since(l.asked[id])/time.Second) {
		left = "what is due" // In whole seconds; how many went by depends on the machine.
	}
	l.say("left of %d: %s of %d, keys %q, id %d", id, left, resp.GrantedTTL, keys, resp.ID)
}

func (l *leaseScript) renew(ids ...int64) {
	stream, err := pb.NewLeaseClient(l.c.ActiveConnection()).LeaseKeepAlive(l.ctx)
	must(l.t, err)
	for _, id := range ids {
		l.asked[id] = time.Now()
		must(l.t, stream.Send(&pb.LeaseKeepAliveRequest{ID: id}))
	}
	must(l.t, stream.CloseSend())
	for {
		resp, err := stream.Recv()
		if err != nil {
			l.say("keep-alives end: %v", err)
			return
		}
		l.say("keep-alive of %d: %d", resp.ID, resp.TTL)
	}
}

func (l *leaseScript) list() {
	resp, err := l.c.Leases(l.ctx)
	must(l.t, err)
	var ids []int64
	for _, x := range resp.Leases {
		ids = append(ids, int64(x.ID))
	}
	l.say("leases: %v", ids)
}

// expiry lets leases end that keys of others stand between, and tells what a watcher sees of it.
func (l *leaseScript) expiry() {
	l.grant(51, 5)
	l.grant(52, 10)
	l.put("x/c", 51)
	l.put("x/a", 51)
	l.put("x/b", 51)
	l.put("x/between", 0)
	l.put("x/moved", 51)
	l.put("x/moved", 52)
	l.put("x/freed", 51)
	l.put("x/freed", 0)
	after, err := l.c.Get(l.ctx, "x/")
	must(l.t, err)
	events := l.deletions(after.Header.Revision+1, 4)
	l.say("deleted: %s", strings.Join(events, " "))
	l.renew(51, 52)
	l.left(51)
	kept, err := l.c.Get(l.ctx, "x/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	must(l.t, err)
	for _, kv := range kept.Kvs {
		l.say("left over: %s", kv.Key)
	}
}

// deletions asks for all revisions from `from` on until so many keys are gone, and names them in order, with their
// revisions counted from the first.
func (l *leaseScript) deletions(from int64, n int) (list []string) {
	watch := l.c.Watch(l.ctx, "x/", clientv3.WithPrefix(), clientv3.WithRev(from))
	for len(list) < n {
		select {
		case resp := <-watch:
			must(l.t, resp.Err())
			for _, e := range resp.Events {
				if e.Type == mvccpb.DELETE {
					list = append(list, fmt.Sprintf("%s@%d", e.Kv.Key, e.Kv.ModRevision-from))
				}
			}
		case <-l.ctx.Done():
			l.t.Fatalf("%s: only %q were deleted", l.s.Kind, list)
		}
	}
	return list
}

func (l *leaseScript) run() []string {
	const most = 9_000_000_000
	for _, ttl := range []int64{-5, 0, 1, 2, 3, 1000, most, most + 1} {
		l.grant(0, ttl)
		l.grant(10+ttl, ttl)
	}
	l.grant(-7, 100)
	l.grant(-7, 100)
	l.grant(21, 600)
	l.grant(22, 500)
	l.put("k/b", 21)
	l.put("k/a", 21)
	l.put("k/c", -7)
	l.put("k/d", 9999)
	l.left(21)
	l.left(22)
	l.left(-7)
	l.left(9999)
	l.left(0)
	l.renew(21, 9999, 22, -7, 0)
	l.revoke(21)
	l.revoke(21)
	l.revoke(-7)
	l.revoke(0)
	l.left(21)
	l.expiry()
	return l.lines
}

func TestLeaseAnswers(t *testing.T) {
	harness.CairnBin(t)
	var answers [2][]string
	var wait sync.WaitGroup
	for i, kind := range []harness.Kind{harness.Etcd, harness.Cairn} {
		s := harness.StartForTest(t, kind)
		l := newLeaseScript(t, s)
		wait.Add(1)
		go func() {
			defer wait.Done()
			answers[i] = l.run()
		}()
	}
	wait.Wait()
	for i := range max(len(answers[0]), len(answers[1])) {
		var etcd, cairn string
		if i < len(answers[0]) {
			etcd = answers[0][i]
		}
		if i < len(answers[1]) {
			cairn = answers[1][i]
		}
		if etcd != cairn {
			t.Errorf("etcd:  %s\ncairn: %s", etcd, cairn)
		}
	}
	if len(answers[1]) < 40 {
		t.Errorf("the script ended early: %q", answers[1])
	}
}

// Leases are listed by the time they have left.
func TestLeaseList(t *testing.T) {
	for _, kind := range []harness.Kind{harness.Etcd, harness.Cairn} {
		s := harness.StartForTest(t, kind)
		l := newLeaseScript(t, s)
		for _, id := range []int64{5, 3, 9, 7} {
			l.grant(id, 1000-id*10)
		}
		l.lines = nil
		l.list()
		l.renew(9)
		if l.list(); l.lines[0] != "leases: [9 7 5 3]" || l.lines[3] != l.lines[0] {
			t.Errorf("%s: %q", kind, l.lines)
		}
	}
}

// A lease that the stock client keeps alive stays, for several times its TTL; it goes when the client does.
func TestLeaseKeptAlive(t *testing.T) {
	s := harness.StartForTest(t, harness.Cairn)
	c, ctx := newClient(t, s), harness.Context(t, time.Minute)
	lease, err := c.Grant(ctx, 4)
	must(t, err)
	_, err = c.Put(ctx, "k", "v", clientv3.WithLease(lease.ID))
	must(t, err)
	keeping, stop := context.WithCancel(ctx)
	answers, err := c.KeepAlive(keeping, lease.ID)
	must(t, err)
	for end := time.Now().Add(9 * time.Second); time.Now().Before(end); {
		resp, open := <-answers
		if !open || resp.TTL != 4 || resp.Revision == 0 {
			t.Fatalf("keep-alive: %v, open %v", resp, open)
		}
	}
	got, err := c.Get(ctx, "k")
	must(t, err)
	if got.Count != 1 {
		t.Fatal("the key was gone while its lease was kept alive")
	}
	stop()
	stopped := time.Now()
	watch := c.Watch(ctx, "k", clientv3.WithRev(got.Header.Revision+1))
	if resp := <-watch; resp.Err() != nil || len(resp.Events) != 1 || resp.Events[0].Type != mvccpb.DELETE {
		t.Errorf("the end of the lease: %v", resp)
	}
	if took := time.Since(stopped); took > 12*time.Second {
		t.Errorf("the lease ended %v after the last keep-alive but one", took)
	}
	if _, err := c.KeepAliveOnce(ctx, lease.ID); err == nil || !strings.Contains(err.Error(), "lease not found") {
		t.Errorf("keep-alive of a lease that is gone: %v", err)
	}
}

// A client with many leases asks for all of them at once, and may read the answers later: they come in order, each
// lease with its own, also when they are more than the client's window takes.
func TestLeasesKeptAliveAtOnce(t *testing.T) {
	const n, ahead, missing = 30000, 10000, 4
	for _, kind := range []harness.Kind{harness.Etcd, harness.Cairn} {
		s := harness.StartForTest(t, kind)
		l := newLeaseScript(t, s)
		for id := int64(1); id < missing; id++ {
			l.grant(id, 1000*id)
		}
		stream, err := pb.NewLeaseClient(l.c.ActiveConnection()).LeaseKeepAlive(l.ctx)
		must(t, err)
		asked := make(chan error, 2)
		go func() {
			for i := range n {
				if i == ahead {
					asked <- nil
				}
				if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(i%missing + 1)}); err != nil {
					asked <- err
					return
				}
			}
			asked <- nil
		}()
		must(t, <-asked)
		for i := range n {
			got, err := stream.Recv()
			if id := int64(i%missing + 1); err != nil || got.ID != id || got.TTL != id%missing*1000 || got.Header.GetRevision() != 1 {
				t.Fatalf("%s: answer %d: %v, %v", kind, i, got, err)
			}
		}
		must(t, <-asked)
		must(t, stream.CloseSend())
		if got, err := stream.Recv(); err != io.EOF {
			t.Errorf("%s: behind the last answer: %v, %v", kind, got, err)
		}
	}
}

// Each of these comes alone, and none of the answers is read until they are more than the client's window takes.
func TestLeaseKeptAliveUnread(t *testing.T) {
	const n = 6000
	s := harness.StartForTest(t, harness.Cairn)
	l := newLeaseScript(t, s)
	l.grant(1, 1000)
	stream, err := pb.NewLeaseClient(l.c.ActiveConnection()).LeaseKeepAlive(l.ctx)
	must(t, err)
	for range n {
		must(t, stream.Send(&pb.LeaseKeepAliveRequest{ID: 1}))
		time.Sleep(100 * time.Microsecond)
	}
	must(t, stream.CloseSend())
	for i := range n {
		if got, err := stream.Recv(); err != nil || got.ID != 1 || got.TTL != 1000 {
			t.Fatalf("answer %d: %v, %v", i, got, err)
		}
	}
	if got, err := stream.Recv(); err != io.EOF {
		t.Errorf("behind the last answer: %v, %v", got, err)
	}
}

// A process that stands still for longer than a lease lives lets it end only when it has woken, once.
func TestLeaseOverPause(t *testing.T) {
	c := harness.StartCluster(t, []harness.Kind{harness.Cairn})
	m, ctx := c.Members[0], harness.Context(t, time.Minute)
	leases := pb.NewLeaseClient(m.Conn)
	_, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 7, TTL: 4})
	must(t, err)
	_, err = m.KV().Put(ctx, &pb.PutRequest{Key: []byte("k"), Lease: 7})
	must(t, err)
	c.Pause(m)
	time.Sleep(5 * time.Second)
	c.Resume(m)
	deadline := time.Now().Add(10 * time.Second)
	for {
		resp, err := m.KV().Range(ctx, &pb.RangeRequest{Key: []byte("k")})
		must(t, err)
		if resp.Count == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the lease did not end")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if _, err := leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 7}); err == nil {
		t.Error("a lease that has ended was revoked")
	} else if errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
