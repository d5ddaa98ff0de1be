// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cairn/tests/harness"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Stock programs, as operators and applications run them, beside a cluster whose leader is killed every few seconds:
// etcdctl's watch, lease, lock and elect, which know all members, and Python's package etcd3, which knows one.

const (
	stockTime    = 22 * time.Second // Of kills, at least.
	stockTTL     = 12               // Seconds, of the leases.
	stockWait    = 30 * time.Second // Until something must have happened.
	lockers      = 3
	candidates   = 3
	stockWatches = 3  // That begin in the past, each after another kill.
	stockWriters = 16 // After a kill some wait for an answer that does not come.
)

type stock struct {
	t      *testing.T
	g      *campaign
	ctx    context.Context
	client *clientv3.Client
	dir    string
	spared *harness.Member // Is never killed; nil if any may be.

	elect  []*candidate // Who stands, or has stood, for election.
	winner []string     // Who won, in order.

	watched map[string]int64 // From which revision on, by the tool's name.

	quiet atomic.Bool // Nobody writes any more.
	over  atomic.Bool // No tool is begun again.
	work  sync.WaitGroup

	writers sync.WaitGroup

	mu     sync.Mutex
	killed time.Time          // When the last kill was done.
	left   map[string]*orphan // Leases that nobody keeps alive, by key.
	made   map[string]int64   // Acknowledged writes: key and revision.
	odd    map[string]int     // Excuses of tools.
	runs   map[string][]*tool // Of tools that are begun again when they may end.
}

// orphan is a lease that is left alone, by the key on it.
type orphan struct {
	least time.Time // It must not be over before.
	gone  time.Time // When the key was found gone.
}

type candidate struct {
	*tool
	name string
	told bool // To resign.
}

// TestStockClientsThroughKills kills leaders; between two kills the tools must get on.
func TestStockClientsThroughKills(t *testing.T) {
	s := newStock(t)
	python := s.startPython()
	kept := s.keepAlive()
	s.begin()
	kills := 0
	for begin := time.Now(); kills < 3 || time.Since(begin) < max(*durationFlag/30, stockTime); kills++ {
		s.orphan(fmt.Sprintf("left/%d", kills))
		s.lockThroughKill(kills)
		s.resign()
		s.writesOn()
		if kills < stockWatches {
			s.watchPast()
		}
	}
	s.quiet.Store(true)
	s.writers.Wait()
	s.waitGone(time.Now()) // Since some moment before there was a leader, and nobody ends its lead.
	s.checkKept(kept)
	s.checkWatches()
	s.checkElection()
	if python != nil {
		s.checkPython(python)
	} else {
		t.Run("Python", func(t *testing.T) { t.Skip("there is no Python with the package etcd3") })
	}
	s.stop()
	t.Logf("%d kills; excuses %v", kills, s.odd)
	s.g.c.CompareHashes(s.g.c.WaitConverged())
}

func newStock(t *testing.T) *stock {
	harness.EtcdctlBin(t)
	rng := newRand(t)
	g := newCampaign(t, rng, kindsFor(rng, 3))
	client, err := newClient(addresses(g.c.Members), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	s := &stock{t: t, g: g, ctx: harness.Context(t, *durationFlag+5*time.Minute), client: client, dir: t.TempDir(),
		left: map[string]*orphan{}, made: map[string]int64{}, odd: map[string]int{}, watched: map[string]int64{},
		runs: map[string][]*tool{}}
	t.Cleanup(s.stop) // Behind the end of the tools.
	return s
}

// begin starts what goes on all the time.
func (s *stock) begin() {
	for who := range stockWriters {
		s.writers.Go(func() { s.write(who) })
	}
	s.work.Add(1)
	go s.pollLeft()
	s.watch(1)
	s.again("listen", func([]*tool) *tool { return s.etcdctl("elect", "--listen", "top", "-w", "json") })
	for range candidates {
		s.stand()
	}
	s.wins()
}

func (s *stock) etcdctl(args ...string) *tool {
	cmd := exec.Command(harness.EtcdctlBin(s.t),
		append([]string{"--endpoints=" + strings.Join(addresses(s.g.c.Members), ",")}, args...)...)
	cmd.Env = harness.CleanEnv()
	return launch(s.t, cmd)
}

// excused notes why a tool failed, which must be for the change of the leader.
func (s *stock) excused(x *tool) {
	excuse := x.excuse()
	if excuse == "" {
		s.t.Errorf("%q: exit %d: %s%s", x.cmd.Args[2:], x.exit(), x.out.String(), x.errors.String())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.odd[x.cmd.Args[2]+": "+excuse]++
}

// must repeats a command until it succeeds, and returns what it printed.
func (s *stock) must(args ...string) string {
	s.t.Helper()
	for deadline := time.Now().Add(stockWait); time.Now().Before(deadline) && !s.t.Failed(); {
		x := s.etcdctl(args...)
		if x.exit() == 0 {
			return x.out.String()
		}
		s.excused(x)
	}
	s.t.Fatalf("etcdctl %q does not succeed", args)
	return ""
}

// until waits for something.
func (s *stock) until(what string, is func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(stockWait); !is(); time.Sleep(20 * time.Millisecond) {
		if s.t.Failed() {
			s.t.FailNow() // What is waited for may never come.
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("after %v: %s", stockWait, what)
		}
	}
}

// again runs a tool that goes on, and runs it anew when it ended with an excuse. start gets the runs before.
func (s *stock) again(name string, start func(before []*tool) *tool) {
	s.mu.Lock()
	x := start(nil)
	s.runs[name] = []*tool{x}
	s.mu.Unlock()
	s.work.Add(1)
	go func() {
		defer s.work.Done()
		for {
			for !x.ended() && !s.over.Load() {
				time.Sleep(20 * time.Millisecond)
			}
			if s.over.Load() || s.t.Failed() {
				return
			}
			s.excused(x)
			s.mu.Lock()
			x = start(s.runs[name])
			s.runs[name] = append(s.runs[name], x)
			s.mu.Unlock()
		}
	}()
}

// kill kills the leader, sees another one elected and brings the first one back.
func (s *stock) kill() {
	s.t.Helper()
	leader := s.g.c.WaitLeader()
	if leader == s.spared {
		s.g.c.MoveLeader(s.g.any(but(s.g.c.Members, leader)))
		leader = s.g.c.WaitLeader()
	}
	s.g.c.Kill(leader)
	s.mu.Lock()
	s.killed = time.Now()
	s.mu.Unlock()
	s.g.c.WaitLeader()
	s.g.healProcesses()
}

// stop ends whatever works beside the test.
func (s *stock) stop() {
	s.quiet.Store(true)
	s.over.Store(true)
	s.writers.Wait()
	s.work.Wait()
}

// linesOf are those that each run of a tool has printed.
func (s *stock) linesOf(name string) (runs [][]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.runs[name] {
		runs = append(runs, x.out.lines())
	}
	return runs
}

// TestStockChecks plants what a wrong server would make the tools print.
func TestStockChecks(t *testing.T) {
	want := []printed{{"a", "1", 2}, {"b", "1", 2}, {"c", "2", 3}}
	for i, got := range [][]printed{want, want[:2], want[1:], {want[0], want[2]}, {want[0], want[0], want[1], want[2]},
		{want[0], want[1], want[2], want[2]}, {want[1], want[0], want[2]}, {want[0], want[1], {"c", "2", 4}}, nil} {
		if err := checkPrinted(got, want); (err == nil) != (i == 0) {
			t.Errorf("%v: %v", got, err)
		}
	}
	a, b, c := announced{"a", 2}, announced{"b", 3}, announced{"c", 5}
	for i, runs := range [][][]announced{{{a, b, c}}, {{a}, {a, b}, {}, {c}}, {{a, b, b, c}}, {{a, c}}, {{a, b}}, {{b, a, c}},
		{{a, b, a, c}}, {{a, b}, {a, b, c}}, {{a, b, {"b", 5}}}, {}} {
		if err := checkWinners(runs, []string{"a", "b", "c"}); (err == nil) != (i < 2) {
			t.Errorf("%v: %v", runs, err)
		}
	}
}
