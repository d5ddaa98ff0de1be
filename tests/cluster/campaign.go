// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// campaign is one cluster and rounds of faults on it. A round starts a load on fresh keys, does something bad, makes
// it good again, demands that every member serves, lets the load run a little longer, and then judges:
//
//   - the history of the clients, by both checkers, against the store at every revision since the last round, read
//     from all members in turn;
//   - HashKV, equal on all members at the head and at some revisions;
//   - that no term had two leaders, and that clients got no error but those a fault explains.
//
// Writes that never got an answer stay in the list of those that may explain a revision of a later round.
type campaign struct {
	t     *testing.T
	c     *harness.Cluster
	rng   *rand.Rand
	start time.Time
	round int
	// Whom the clients of a round know.
	clients func([]*harness.Member) [][]string
	head    int64 // The revision at which the last round ended,
	last    state // and the store then.
	open    []*operation

	leaders leaders
	watched bool // Rounds have watchers too.
	events  int  // What all of them were told.

	calls, writes, unknown int
	revisions              int64
	errors                 map[string]int
	explained              func(error) bool // Whether a client may get this error.
	patience               time.Duration    // Of the load's clients.
	lie                    bool             // The load reads without asking for linearizability, and hides it.
	downtimes              []time.Duration  // From a leader's kill -9 to the next acknowledged write.
}

// leastWrites is how many acknowledged writes make a round worth its while.
const leastWrites = 20

func newCampaign(t *testing.T, rng *rand.Rand, kinds []harness.Kind, args ...string) *campaign {
	t.Helper()
	g := &campaign{t: t, rng: rng, start: time.Now(), clients: endpointsFor, leaders: newLeaders(), errors: map[string]int{},
		explained: explained, patience: callLimit}
	g.c = harness.StartCluster(t, kinds, args...)
	g.head = g.c.WaitConverged()
	g.last = g.read(g.c.Members[0], g.head)
	return g
}

// etcd says whether some members are etcd's.
func (g *campaign) etcd() bool {
	return slices.ContainsFunc(g.c.Current(), func(m *harness.Member) bool { return m.Kind == harness.Etcd })
}

// in makes a subtest the one that fails from now on.
func (g *campaign) in(t *testing.T) {
	g.t = t
	g.c.In(t)
}

// during runs one round around a fault and fails the test if the verdict is bad.
func (g *campaign) during(fault func(l *load)) {
	g.t.Helper()
	if err := g.attempt(fault); err != nil {
		g.t.Fatalf("round %d: %v", g.round, err)
	}
	if g.t.Failed() {
		g.t.FailNow()
	}
	g.tidy()
}

// attempt runs one round and returns the verdict.
func (g *campaign) attempt(fault func(l *load)) error {
	g.t.Helper()
	g.round++
	l, err := startLoad(g.start, g.rng, loadOptions{prefix: fmt.Sprintf("r%d/", g.round),
		endpoints: g.clients(g.c.Current()), etcd: g.etcd(), patience: g.patience, lie: g.lie})
	if err != nil {
		g.t.Fatal(err)
	}
	watches, err := g.watch()
	if err != nil {
		l.stop()
		g.t.Fatal(err)
	}
	stopped := false
	defer func() { // Fatal leaves through here.
		if !stopped {
			l.stop()
		}
		watches.stop()
	}()
	g.waitAnswers(l, l.now(), 10)
	fault(l)
	g.heal()
	healed := l.now()
	g.waitAnswers(l, healed, 60)
	g.waitWrites(l, 0, leastWrites)
	ops := l.stop()
	stopped = true
	return g.judge(ops, watches)
}

// watch starts the watchers of a round, if there are to be some.
func (g *campaign) watch() (*watchers, error) {
	if !g.watched {
		return &watchers{cancel: func() {}}, nil
	}
	return startWatchers(g.rng, g.c.Current(), fmt.Sprintf("r%d/", g.round), g.head+1)
}

// heal makes everything good again and waits until every member serves.
func (g *campaign) heal() {
	g.t.Helper()
	g.c.Net.Heal(g.rng.IntN(2) == 0)
	g.healProcesses()
}

// healProcesses lets all processes run again.
func (g *campaign) healProcesses() {
	g.t.Helper()
	for _, m := range g.c.Current() {
		if m.Paused {
			g.c.Resume(m)
		}
		if m.Pid() == 0 {
			g.c.Restart(m)
		}
	}
	g.c.WaitReady(g.c.Current()...)
}

// waitAnswers waits until so many calls since a moment were answered.
func (g *campaign) waitAnswers(l *load, since int64, count int) {
	g.t.Helper()
	for deadline := time.Now().Add(harness.ReadyLimit); l.answered(since) < count; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			g.t.Fatalf("round %d: %d calls answered in %v, want %d", g.round, l.answered(since), harness.ReadyLimit, count)
		}
	}
}

// lasts lets a fault be for a while.
func (g *campaign) lasts(least, most time.Duration) {
	time.Sleep(least + time.Duration(g.rng.Int64N(int64(most-least)+1)))
}

// judge is the end of a round.
func (g *campaign) judge(ops []*operation, watches *watchers) error {
	g.t.Helper()
	head := g.c.WaitConverged()
	if head < g.head {
		return fmt.Errorf("lost: the cluster is at revision %d, the round began at %d", head, g.head)
	}
	r := g.readRecord(head)
	g.count(ops, r)
	open, byRevision := checkRevisions(r, append(ops, g.open...))
	if byRevision != nil {
		byRevision = fmt.Errorf("by revision: %w", byRevision)
	}
	byOrder := checkLinear(ops, r.values())
	if byOrder != nil {
		byOrder = fmt.Errorf("by order: %w", byOrder)
	}
	told, byWatch := watches.judge(r)
	watches.explain(g.errors)
	g.events += told
	sample := []int64{head}
	for range min(head-g.head, 3) {
		sample = append(sample, g.head+1+g.rng.Int64N(head-g.head))
	}
	g.c.CompareHashes(sample...)
	g.open, g.head, g.last = open, head, r.at(head)
	return errors.Join(byRevision, byOrder, byWatch, g.leaders.read(g.c.Members))
}

func (g *campaign) count(ops []*operation, r *record) {
	g.calls += len(ops)
	g.revisions += r.head() - r.base
	acknowledged := 0
	for _, o := range ops {
		if o.wrote() {
			acknowledged++
		}
		if o.answered || errors.Is(o.err, context.Canceled) || status.Code(o.err) == codes.Canceled {
			continue
		}
		if len(o.changes) > 0 {
			g.unknown++
		}
		text := o.err.Error()
		g.errors[text]++
		if !g.explained(o.err) {
			g.t.Errorf("round %d: an error that no fault explains: %v", g.round, o)
		}
	}
	g.writes += acknowledged
	if acknowledged < leastWrites {
		g.t.Errorf("round %d: only %d writes of %d calls were acknowledged: it did not test much", g.round, acknowledged,
			len(ops))
	}
}

// leaderChange says whether an error is one that clients get of etcd while the leader changes. The last one is raft's
// own: a leader that hands its lead on refuses the proposals it is sent meanwhile.
func leaderChange(err error) bool {
	for _, known := range []error{rpctypes.ErrNoLeader, rpctypes.ErrLeaderChanged, rpctypes.ErrTimeout,
		rpctypes.ErrTimeoutDueToLeaderFail} {
		if errors.Is(err, known) {
			return true
		}
	}
	return unnamed(err, "raft proposal dropped")
}

// unnamed says whether an error is one to which etcd gives no code.
func unnamed(err error, text string) bool {
	return status.Code(err) == codes.Unknown && status.Convert(err).Message() == text
}

// explained says whether a client may get this error while members die, stand still and lose each other.
func explained(err error) bool {
	if leaderChange(err) || errors.Is(err, context.DeadlineExceeded) || unnamed(err, "raft: stopped") {
		return true
	}
	for _, known := range []error{rpctypes.ErrTimeoutDueToConnectionLost, rpctypes.ErrStopped,
		rpctypes.ErrTimeoutWaitAppliedIndex, rpctypes.ErrTooManyRequests} {
		if errors.Is(err, known) {
			return true
		}
	}
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return false
	}
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded
}

// insist repeats a call as long as its error is one that may be explained.
func insist(call func() error) (err error) {
	for deadline := time.Now().Add(harness.ReadyLimit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = call(); err == nil || !explained(rpctypes.Error(err)) {
			break
		}
	}
	return err
}

// read reads the round's keys at a revision from one member.
func (g *campaign) read(m *harness.Member, revision int64) state {
	s, err := readState(m, revision)
	if err != nil {
		g.t.Fatalf("round %d: %s at revision %d: %v", g.round, m.Name, revision, err)
	}
	return s
}

func readState(m *harness.Member, revision int64) (state, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	resp, err := m.KV().Range(ctx, &pb.RangeRequest{Key: []byte("r"), RangeEnd: []byte("u"), Revision: revision,
		Serializable: true})
	if err != nil {
		return nil, err
	}
	s := state{}
	for _, kv := range resp.Kvs {
		s[string(kv.Key)] = version{string(kv.Value), kv.CreateRevision, kv.ModRevision, kv.Version}
	}
	return s, nil
}

// readRecord reads the store at every revision since the last round, each from one of the members.
func (g *campaign) readRecord(head int64) *record {
	g.t.Helper()
	r := &record{base: g.head, states: make([]state, head-g.head+1)}
	r.states[0] = g.last
	members := g.c.Current()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	for i, m := range members {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for at := 1 + i; at < len(r.states); at += len(members) {
				s, err := readState(m, r.base+int64(at))
				if err != nil {
					mu.Lock()
					first = errors.Join(first, fmt.Errorf("%s at revision %d: %w", m.Name, r.base+int64(at), err))
					mu.Unlock()
					return
				}
				r.states[at] = s
			}
		}()
	}
	wg.Wait()
	if first != nil {
		g.t.Fatalf("round %d: %v", g.round, first)
	}
	return r
}

// tidy removes the round's keys, compacts every other round, and looks at the hashes once more.
func (g *campaign) tidy() {
	g.t.Helper()
	c, err := newClient(addresses(g.c.Current()), g.etcd())
	if err != nil {
		g.t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	o := &operation{client: -1, number: g.round, what: "tidy", call: int64(time.Since(g.start))}
	o.changes = []change{{"tidy", fmt.Sprintf("tidy%d", g.round)}}
	ops := []clientv3.Op{clientv3.OpPut("tidy", o.changes[0].value)}
	for key := range g.last {
		if key != "tidy" {
			o.changes = append(o.changes, change{key, ""})
			ops = append(ops, clientv3.OpDelete(key))
		}
	}
	_, o.err = c.Txn(ctx).Then(ops...).Commit()
	if o.err != nil { // The leader may change at any time on a slow machine.
		g.t.Logf("round %d: tidy: %v", g.round, o.err)
	}
	g.open = append(g.open, o)
	if g.round%2 == 0 {
		if _, err := c.Compact(ctx, g.head, clientv3.WithCompactPhysical()); err != nil {
			g.t.Logf("round %d: compact: %v", g.round, err)
		}
	}
}

// report says how much was done.
func (g *campaign) report() {
	g.t.Logf("%d rounds in %.0f s: %d calls, %d writes acknowledged, %d without an answer, %d revisions read, "+
		"%d leaders, %d connections of unknown owners", g.round, time.Since(g.start).Seconds(), g.calls, g.writes, g.unknown,
		g.revisions, len(g.leaders.terms), g.c.Net.Unknown())
	if g.round > 0 && len(g.leaders.terms) == 0 {
		g.t.Error("no member's log says who led: whether a term had two leaders was not checked")
	}
	if g.watched {
		g.t.Logf("watchers were told of %d events", g.events)
	}
	var texts []string
	for text, count := range g.errors {
		texts = append(texts, fmt.Sprintf("%6d %s", count, text))
	}
	sort.Sort(sort.Reverse(sort.StringSlice(texts)))
	if len(texts) > 0 {
		g.t.Logf("errors of calls:\n%s", strings.Join(texts, "\n"))
	}
	if len(g.downtimes) > 0 {
		sort.Slice(g.downtimes, func(i, j int) bool { return g.downtimes[i] < g.downtimes[j] })
		g.t.Logf("writes went on after a kill of the leader: %d kills, median %v, longest %v", len(g.downtimes),
			g.downtimes[len(g.downtimes)/2], g.downtimes[len(g.downtimes)-1])
	}
}
