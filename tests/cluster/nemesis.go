// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"time"

	"cairn/tests/harness"
)

// Faults. Each does its harm and lasts some seconds, longer than an election timeout where that matters; processes
// that it ended or paused may stay so, and the network may stay broken: the campaign heals everything afterwards.

// fault is one kind of harm. least is the smallest cluster it makes sense in.
type fault struct {
	name  string
	least int
	do    func(*campaign, *load)
}

var faults = []fault{
	{"kill-leader", 1, func(g *campaign, l *load) { g.kill(l, g.leader()) }},
	{"kill-follower", 2, func(g *campaign, l *load) { g.kill(l, g.follower()) }},
	{"kill-all", 1, killAll},
	{"terminate-leader", 1, terminateLeader},
	{"stop-leader", 1, func(g *campaign, _ *load) { g.pause(g.leader()) }},
	{"stop-follower", 2, func(g *campaign, _ *load) { g.pause(g.follower()) }},
	{"stop-all", 1, func(g *campaign, _ *load) { g.pause(g.c.Current()...) }},
	{"leader-unheard", 2, func(g *campaign, _ *load) { g.oneWay(g.leader(), true, false) }},
	{"leader-deaf", 2, func(g *campaign, _ *load) { g.oneWay(g.leader(), false, true) }},
	{"follower-unheard", 3, func(g *campaign, _ *load) { g.oneWay(g.follower(), true, false) }},
	{"follower-deaf", 3, func(g *campaign, _ *load) { g.oneWay(g.follower(), false, true) }},
	{"leader-late", 2, func(g *campaign, _ *load) { g.oneWay(g.leader(), true, true) }},
	{"split-leader-minority", 3, func(g *campaign, _ *load) { g.split(false) }},
	{"split-leader-majority", 3, func(g *campaign, _ *load) { g.split(true) }},
	{"ring", 3, ring},
	{"lagging-candidate", 3, laggingCandidate},
	{"resets", 2, resets},
	{"slow-link", 2, slowLink},
	{"slow-leader", 2, slowLeader},
	{"move-leader", 2, moveLeader},
	{"replace-leader", 3, func(g *campaign, _ *load) { g.replace(g.leader()) }},
	{"replace-follower", 3, func(g *campaign, _ *load) { g.replace(g.follower()) }},
	{"grow-and-shrink", 1, growAndShrink},
}

// processFaults and networkFaults are what "two at once" is made of.
var (
	processFaults = map[string]bool{"kill-leader": true, "kill-follower": true, "kill-all": true, "stop-leader": true,
		"stop-follower": true, "stop-all": true}
	networkFaults = map[string]bool{"leader-unheard": true, "leader-deaf": true, "follower-deaf": true,
		"split-leader-minority": true, "split-leader-majority": true, "ring": true, "slow-link": true, "resets": true}
)

// leader returns the leader, or any member when there is none now.
func (g *campaign) leader() *harness.Member {
	if m := g.c.Leader(g.c.Running()...); m != nil {
		return m
	}
	return g.any(g.c.Current())
}

// follower returns a member that does not lead.
func (g *campaign) follower() *harness.Member {
	leader := g.leader()
	return g.any(but(g.c.Current(), leader))
}

func (g *campaign) any(list []*harness.Member) *harness.Member { return list[g.rng.IntN(len(list))] }

func but(list []*harness.Member, m *harness.Member) (others []*harness.Member) {
	for _, other := range list {
		if other != m {
			others = append(others, other)
		}
	}
	return others
}

// trouble disturbs a cluster until a share of the tests' time is over, then makes all well and returns.
func (g *campaign) trouble(share time.Duration) {
	for end := time.Now().Add(share); time.Now().Before(end); {
		time.Sleep(time.Second + time.Duration(g.rng.Int64N(int64(2*time.Second))))
		m := g.leader()
		if g.rng.IntN(3) == 0 {
			g.c.Pause(m)
		} else if m.Pid() != 0 {
			g.c.Kill(m)
		}
		time.Sleep(time.Second + time.Duration(g.rng.Int64N(int64(2*time.Second))))
		g.healProcesses()
	}
}

func (g *campaign) kill(l *load, m *harness.Member) {
	led := g.c.Leader(g.c.Running()...) == m
	killed := l.now()
	if m.Pid() != 0 {
		g.c.Kill(m)
	}
	g.lasts(2500*time.Millisecond, 4*time.Second)
	if first := l.firstWrite(killed); led && first > 0 && len(g.c.Current()) > 1 {
		g.downtimes = append(g.downtimes, time.Duration(first-killed))
	}
	if g.rng.IntN(2) == 0 { // Else it comes back when all else is well again.
		g.c.Restart(m)
		g.lasts(0, time.Second)
	}
}

func killAll(g *campaign, _ *load) {
	members := g.c.Current()
	g.rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	for _, m := range members {
		if m.Pid() != 0 {
			g.c.Kill(m)
		}
	}
	for _, m := range members {
		g.lasts(0, 300*time.Millisecond)
		g.c.Restart(m)
	}
}

// terminateLeader stops the leader in good order: it hands the lead on.
func terminateLeader(g *campaign, _ *load) {
	m := g.leader()
	if _, err := m.Terminate(); err != nil {
		g.t.Fatalf("%s: %v", m.Name, err)
	}
	g.lasts(time.Second, 2*time.Second)
}

// pause stops processes for longer than an election timeout.
func (g *campaign) pause(members ...*harness.Member) {
	for _, m := range members {
		if m.Pid() != 0 {
			g.c.Pause(m)
		}
	}
	g.lasts(2500*time.Millisecond, 5*time.Second)
	for _, m := range members {
		if m.Paused {
			g.c.Resume(m)
		}
	}
	g.lasts(0, time.Second)
}

// oneWay holds what a member sends, what it is sent, or both.
func (g *campaign) oneWay(m *harness.Member, out, in bool) {
	for _, other := range but(g.c.Current(), m) {
		if out {
			g.c.Net.Hold(m.Index, other.Index)
		}
		if in {
			g.c.Net.Hold(other.Index, m.Index)
		}
	}
	g.lasts(3*time.Second, 7*time.Second) // Some longer than the 5 s after which a silent stream is given up.
}

// part cuts two members apart: at once for both, or silently.
func (g *campaign) part(a, b *harness.Member, silently bool) {
	if silently {
		g.c.Net.Hold(a.Index, b.Index)
		g.c.Net.Hold(b.Index, a.Index)
	} else {
		g.c.Net.Cut(a.Index, b.Index)
	}
}

// split parts a minority from the rest.
func (g *campaign) split(leaderInMajority bool) {
	members, leader := g.c.Current(), g.leader()
	others := but(members, leader)
	g.rng.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	minority := (len(members) - 1) / 2
	order := append([]*harness.Member{leader}, others...) // The first ones are the minority.
	if leaderInMajority {
		order = append(others, leader)
	}
	silently := g.rng.IntN(2) == 0
	for _, a := range order[:minority] {
		for _, b := range order[minority:] {
			g.part(a, b, silently)
		}
	}
	g.lasts(3*time.Second, 6*time.Second)
}

// ring leaves each member its two neighbours in a ring, so that every member sees a majority, and no two the same
// one. Three members become a chain.
func ring(g *campaign, _ *load) {
	members := g.c.Current()
	g.rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	n := len(members)
	silently := g.rng.IntN(2) == 0
	for i := range members {
		for j := i + 1; j < n; j++ {
			neighbours := j == i+1 || i == 0 && j == n-1 && n > 3
			if !neighbours {
				g.part(members[i], members[j], silently)
			}
		}
	}
	g.lasts(3*time.Second, 6*time.Second)
}

// laggingCandidate lets a follower miss what the others commit, and when it comes back, impatient, kills the leader: a
// vote for it would lose what it missed.
func laggingCandidate(g *campaign, l *load) {
	leader, m := g.leader(), g.follower()
	if m == leader {
		return
	}
	g.oneWay(m, true, true)
	g.c.Kill(leader)
	g.c.Net.Heal(false)
	killed := l.now()
	g.waitAnswers(l, killed, 30)
	g.lasts(0, time.Second)
}

// resets breaks all connections again and again.
func resets(g *campaign, _ *load) {
	members := g.c.Current()
	for range 12 {
		for i, a := range members {
			for _, b := range members[i+1:] {
				if g.rng.IntN(3) > 0 {
					g.c.Net.Reset(a.Index, b.Index)
				}
			}
		}
		g.lasts(50*time.Millisecond, 400*time.Millisecond)
	}
}

func (g *campaign) slow(a, b *harness.Member) {
	delay := 30*time.Millisecond + time.Duration(g.rng.Int64N(int64(270*time.Millisecond)))
	g.c.Net.Delay(a.Index, b.Index, delay, delay/2)
	g.c.Net.Delay(b.Index, a.Index, delay/3, delay)
}

func slowLink(g *campaign, _ *load) {
	m := g.leader()
	g.slow(m, g.any(but(g.c.Current(), m)))
	g.lasts(3*time.Second, 5*time.Second)
}

func slowLeader(g *campaign, _ *load) {
	m := g.leader()
	for _, other := range but(g.c.Current(), m) {
		g.slow(m, other)
	}
	g.lasts(3*time.Second, 5*time.Second)
}

func moveLeader(g *campaign, _ *load) {
	for range 4 {
		g.c.MoveLeader(g.any(but(g.c.Current(), g.leader())))
		g.lasts(100*time.Millisecond, 800*time.Millisecond)
	}
}

// replace exchanges a member for a fresh one, of any kind that may run. Half of the time the new one comes first, as
// a learner.
func (g *campaign) replace(m *harness.Member) {
	through := g.any(but(g.c.Current(), m))
	if g.rng.IntN(2) == 0 {
		g.c.Replace(through, m, anyKind(g.rng))
		return
	}
	fresh := g.c.Add(through, anyKind(g.rng), true)
	g.c.Promote(through, fresh)
	g.c.Remove(through, m)
}

// growAndShrink adds a member and removes it again, so that for a while the quorum is another.
func growAndShrink(g *campaign, _ *load) {
	through := g.any(g.c.Current())
	m := g.c.Add(through, anyKind(g.rng), g.rng.IntN(2) == 0)
	if s, err := m.Status(); err == nil && s.IsLearner {
		g.c.Promote(through, m)
	}
	g.lasts(500*time.Millisecond, 1500*time.Millisecond)
	g.c.Remove(through, m)
}
