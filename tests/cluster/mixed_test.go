// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// TestMixed runs a cluster of both kinds, one Cairn and two etcd and the other way round: each member leads under
// load, each is killed, all are. After each round HashKV is equal everywhere. If only one kind may run, one cluster of
// three is enough.
func TestMixed(t *testing.T) {
	clusters := map[string][]harness.Kind{"one-Cairn": asAll(harness.Cairn, harness.Etcd, harness.Etcd)}
	if mixed() {
		clusters["two-Cairn"] = asAll(harness.Cairn, harness.Cairn, harness.Etcd)
	}
	for name, kinds := range clusters {
		t.Run(name, func(t *testing.T) {
			g := newCampaign(t, newRand(t), kinds)
			defer func() { g.in(t); g.report() }()
			for _, m := range g.c.Members {
				t.Run(fmt.Sprintf("%s-%s-leads", m.Name, m.Kind), func(t *testing.T) {
					g.in(t)
					g.during(func(l *load) { g.lead(l, m) })
				})
				t.Run(fmt.Sprintf("%s-%s-killed", m.Name, m.Kind), func(t *testing.T) {
					g.in(t)
					g.during(func(l *load) { g.kill(l, m) })
				})
			}
			t.Run("all-killed", func(t *testing.T) {
				g.in(t)
				g.during(func(l *load) { killAll(g, l) })
			})
		})
	}
}

// lead makes a member the leader and demands that writes are acknowledged in its term.
func (g *campaign) lead(l *load, m *harness.Member) {
	g.t.Helper()
	for range 5 {
		g.c.MoveLeader(m)
		before, err := m.Status()
		if err != nil {
			g.t.Fatal(err)
		}
		moved := l.now()
		g.waitAnswers(l, moved, 100)
		after, err := m.Status()
		if err == nil && after.RaftTerm == before.RaftTerm && after.Leader == m.ID && l.firstWrite(moved) > 0 {
			return
		}
		g.t.Logf("%s lost the lead again", m.Name) // Possible on a busy machine, but not always.
	}
	g.t.Errorf("%s does not keep the lead", m.Name)
}

// preload fills a cluster with what a snapshot has to carry: many revisions, removed keys, a compaction, leases, a big
// value. It stays out of the way of the rounds' keys.
func (g *campaign) preload() {
	g.t.Helper()
	through, ctx := g.c.WaitLeader(), harness.Context(g.t, 2*time.Minute)
	must := func(err error) {
		g.t.Helper()
		if err != nil {
			g.t.Fatal(err)
		}
	}
	put := func(key string, value []byte, lease int64) {
		must(insist(func() error {
			_, err := through.KV().Put(ctx, &pb.PutRequest{Key: []byte(key), Value: value, Lease: lease})
			return err
		}))
	}
	for id := int64(1); id <= 3; id++ {
		must(grant(ctx, through, id, 5000))
	}
	for i := range 300 {
		key := fmt.Sprintf("data/%02d", i%40)
		put(key, []byte(fmt.Sprintf("%d", i)), int64(i%4))
		if i%10 == 9 {
			must(insist(func() error {
				_, err := through.KV().DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key)})
				return err
			}))
		}
	}
	put("data/big", make([]byte, 1<<20), 0)
	must(insist(func() error {
		_, err := through.KV().Compact(ctx, &pb.CompactionRequest{Revision: 150})
		if errors.Is(rpctypes.Error(err), rpctypes.ErrCompacted) {
			return nil // An earlier try did it.
		}
		return err
	}))
	g.head = g.c.WaitConverged()
	g.last = g.read(g.c.Members[0], g.head)
}

// sameLeases demands that all members list the same leases.
func (g *campaign) sameLeases() {
	g.t.Helper()
	var first string
	for _, m := range g.c.Current() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		resp, err := pb.NewLeaseClient(m.Conn).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
		cancel()
		if err != nil {
			g.t.Fatalf("leases of %s: %v", m.Name, err)
		}
		var ids []int64
		for _, l := range resp.Leases {
			ids = append(ids, l.ID)
		}
		sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
		list := fmt.Sprint(ids)
		if first == "" {
			first = list
		}
		if list != first || len(ids) == 0 {
			g.t.Errorf("%s has leases %s, %s has %s", m.Name, list, g.c.Current()[0].Name, first)
		}
	}
}

// TestJoin adds a fresh member of each kind to a cluster led by each kind, under load, as a learner and as a voter. The
// log is compacted by then, so it comes by snapshot.
func TestJoin(t *testing.T) {
	rng := newRand(t)
	g := newCampaign(t, rng, asAll(harness.Etcd, harness.Cairn, harness.Etcd), shortLog...)
	defer func() { g.in(t); g.report() }()
	g.preload()
	kinds := []harness.Kind{as(harness.Etcd)}
	if mixed() {
		kinds = []harness.Kind{harness.Etcd, harness.Cairn}
	}
	for _, leads := range kinds {
		for _, joins := range kinds {
			for _, learner := range []bool{true, false} {
				name := fmt.Sprintf("%s-joins-%s-as-voter", joins, leads)
				if learner {
					name = fmt.Sprintf("%s-joins-%s-as-learner", joins, leads)
				}
				t.Run(name, func(t *testing.T) {
					g.in(t)
					g.during(func(l *load) { g.join(leads, joins, learner) })
					g.sameLeases()
					g.c.Remove(g.leader(), g.c.Members[len(g.c.Members)-1])
				})
			}
		}
	}
}

func (g *campaign) join(leads, joins harness.Kind, learner bool) {
	for _, m := range g.c.Current() {
		if m.Kind == leads {
			g.c.MoveLeader(m)
			break
		}
	}
	through := g.any(g.c.Current())
	m := g.c.Add(through, joins, learner)
	if learner {
		g.c.Promote(through, m)
	}
}

// TestMigration replaces a running cluster of etcd, member by member, by Cairn, and back, under constant load. What an
// operator does: add a learner, promote it, point clients elsewhere, move the lead away, remove the old member. No
// write may fail but with what etcd says when a leader changes, and nothing may be lost.
func TestMigration(t *testing.T) {
	g := newCampaign(t, newRand(t), asAll(harness.Etcd, harness.Etcd, harness.Etcd), shortLog...)
	defer func() { g.in(t); g.report() }()
	g.preload()
	g.explained, g.patience = leaderChange, 15*time.Second // Longer than a member takes to say that it timed out.
	g.clients = func(members []*harness.Member) (list [][]string) {
		for range 6 {
			list = append(list, addresses(members))
		}
		return list
	}
	for _, way := range []struct {
		name string
		to   harness.Kind
	}{{"there", as(harness.Cairn)}, {"back", as(harness.Etcd)}} {
		for i, old := range g.c.Current() {
			t.Run(fmt.Sprintf("%s-%d-of-3", way.name, i+1), func(t *testing.T) {
				g.in(t)
				g.during(func(l *load) { g.migrate(l, old, way.to) })
				g.sameLeases()
			})
		}
	}
}

// waitLeft waits until no client asks a member any more; one that still did would ask it every third time.
func (g *campaign) waitLeft(l *load, since int64, old *harness.Member) {
	g.t.Helper()
	for deadline := time.Now().Add(harness.ReadyLimit); slices.Min(l.answeredElsewhere(since, old.ID)) < 16; {
		if time.Now().After(deadline) {
			g.t.Fatalf("some clients still ask %s", old.Name)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// answeredElsewhere counts each client's answered calls since a moment behind the last one that this member answered.
func (l *load) answeredElsewhere(since int64, member uint64) []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := make([]int, len(l.clients))
	for _, o := range l.ops {
		switch {
		case !o.answered || o.call < since:
		case o.member == member:
			counts[o.client] = 0
		default:
			counts[o.client]++
		}
	}
	return counts
}

func (g *campaign) migrate(l *load, old *harness.Member, to harness.Kind) {
	fresh := g.c.Add(g.leader(), to, true)
	g.c.Promote(g.leader(), fresh)
	l.use(but(g.c.Current(), old))
	g.waitLeft(l, l.now(), old)
	if g.leader() == old {
		g.c.MoveLeader(fresh)
	}
	g.c.Remove(fresh, old)
	g.waitAnswers(l, l.now(), 200)
}
