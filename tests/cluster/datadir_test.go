// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"
)

// What a member says in its log.
const (
	lostEntries    = "this member's log has lost entries that it acknowledged"
	otherClusterID = "request sent was ignored by remote peer due to cluster ID mismatch"
)

const (
	// leaderlessFor is so long that every member that may ask for votes does so twice, with the flags' default.
	leaderlessFor = 4 * time.Second
	logLimit      = 20 * time.Second
)

// misplaced are data directories that are not what the member whose place they are in takes them for.
var misplaced = []struct {
	name    string
	clients func(members []*harness.Member, b *harness.Member) [][]string
	panics  bool // etcd's members do, so these are tried on Cairn's alone.
	do      func(g *campaign, l *load, b *harness.Member)
}{
	{"older-copy", ofAll, true, olderCopy},
	{"two-with-one-id", ofAll, true, sameTwice},
	{"of-another-cluster", ofOthers, false, ofAnotherCluster},
}

func ofAll(members []*harness.Member, _ *harness.Member) [][]string { return endpointsFor(members) }

func ofOthers(members []*harness.Member, b *harness.Member) [][]string {
	return endpointsFor(but(members, b))
}

// TestDataDirectories gives a follower, b, a wrong data directory while clients read and write. Whatever it is, no
// process may end by itself, no term may have two leaders, nothing acknowledged may be lost, and the verdict on the
// history is that of every other round.
func TestDataDirectories(t *testing.T) {
	rng := newRand(t)
	g := newCampaign(t, rng, kindsFor(rng, 3))
	defer func() { g.in(t); g.report() }()
	for _, x := range misplaced {
		ok := t.Run(x.name, func(t *testing.T) {
			if x.panics && g.etcd() {
				t.Skip("an etcd member panics when its log is older than what it acknowledged")
			}
			g.in(t)
			b := g.follower()
			g.clients = func(members []*harness.Member) [][]string { return x.clients(members, b) }
			g.during(func(l *load) { x.do(g, l, b) })
		})
		if !ok {
			return
		}
	}
}

// olderCopy puts a copy of b's data back that lacks entries which were committed with b's acknowledgement and which the
// third member doesn't have either. Then only the leader has them, and it is killed: a vote of b's would make a leader
// of the third member, and all of them would be lost. Nobody may lead until the old leader is back. It begins a new
// term, in which it asks b from the start what it has; b gets all, and may lead again.
//
// etcd's b panics at the first heartbeat, "tocommit(N) is out of range [lastIndex(M)]. Was the raft log corrupted,
// truncated, or lost?", and at each start anew while this leader leads.
func olderCopy(g *campaign, l *load, b *harness.Member) {
	g.t.Helper()
	leader, third := g.rest(b)
	for tries := 1; !g.loses(l, b, leader, third); tries++ {
		g.giveUp(b, tries)
		g.refill(leader, third)
	}

	g.c.Kill(leader)
	g.c.Net.Heal(false)
	g.leaderless(b, third)
	g.c.Restart(leader)
	g.c.WaitReady(g.c.Current()...)
	g.c.MoveLeader(b)
}

// loses makes b lose entries that only the leader has beside it, and says whether b finds that out: if another one led
// meanwhile, as on a machine that stood still, there may be nothing to find out.
func (g *campaign) loses(l *load, b, leader, third *harness.Member) bool {
	g.t.Helper()
	older, newer := b.DataDir()+".older", b.DataDir()+".newer"
	g.must(os.RemoveAll(newer))
	g.terminate(b)
	g.copyDir(b.DataDir(), older)
	g.c.Restart(b)
	g.c.WaitReady(b)
	g.c.Net.Cut(leader.Index, third.Index)
	g.c.Net.Cut(b.Index, third.Index)
	g.c.MoveLeader(leader) // In case that it was too busy meanwhile.
	g.waitWrites(l, l.now(), 50)

	g.c.Pause(leader) // Without b its lead would soon end, and a new one would be none the wiser.
	g.c.Kill(b)
	g.rename(b.DataDir(), newer)
	g.rename(older, b.DataDir())
	seen := g.logSize(b)
	g.c.Restart(b)
	g.waitPeers(b)
	g.c.Resume(leader)
	return g.says(b, seen, lostEntries)
}

// sameTwice starts a copy of b on other ports while b runs: two processes with one id. Both dial the others' streams,
// each of which takes the place of the one before, so that b and its copy get what is meant for b by turns, and the
// leader counts for one what the other has acknowledged. The copy finds out that its log lacks entries, and falls
// silent; so may b, under a later leader. The leader and the third member carry the cluster, and what b lacks in the
// end it gets from the next leader. No leader is killed meanwhile: an entry that it and the copy have counts as
// committed, and no rule of raft would keep it if the third member had not got it yet.
//
// etcd's streams do the same, and the copy panics as b does in olderCopy, at the first heartbeat that it takes from b.
func sameTwice(g *campaign, l *load, b *harness.Member) {
	g.t.Helper()
	leader, third := g.rest(b)
	twin := g.c.Place(b.Kind)
	twin.Removed = true // It has a door that nobody knows, and no place among the members.
	twin.Args = b.Args
	for tries := 1; !g.doubles(l, b, twin); tries++ {
		g.giveUp(twin, tries)
		g.c.Kill(twin)
		g.refill(leader, third)
	}
	for range 3 {
		for _, next := range []*harness.Member{third, leader} {
			g.c.MoveLeader(next)
			g.waitWrites(l, l.now(), 50)
		}
	}
	g.c.Kill(twin)
	g.c.Net.CloseDoor(twin.Index)
	g.c.MoveLeader(third)
	g.neverBoth(b, twin)
}

// doubles starts the copy, and says whether it finds out that it lacks entries: if another one leads just then, it may get
// all of them.
func (g *campaign) doubles(l *load, b, twin *harness.Member) bool {
	g.t.Helper()
	g.must(os.RemoveAll(twin.DataDir()))
	g.terminate(b)
	g.copyDir(b.DataDir(), twin.DataDir())
	g.c.Restart(b)
	g.c.WaitReady(b)
	g.waitWrites(l, l.now(), 50) // The copy lacks them.
	seen := logSize(twin)
	g.c.Restart(twin)
	return g.says(twin, seen, lostEntries)
}

// giveUp ends the test when a member has not found out what it lacks in three tries, or has ended.
func (g *campaign) giveUp(m *harness.Member, tries int) {
	g.t.Helper()
	if tries == 3 || !m.Alive() {
		g.t.Fatalf("%s (running: %v) doesn't say %q; %s", m.Name, m.Alive(), lostEntries, m.LogTail(20))
	}
	g.t.Logf("%s doesn't say %q", m.Name, lostEntries)
}

// refill gives a member what it lacks, through another leader, and makes the first one lead again.
func (g *campaign) refill(leader, third *harness.Member) {
	g.t.Helper()
	g.c.Net.Heal(false)
	g.c.MoveLeader(third)
	g.c.WaitReady(g.c.Current()...)
	g.c.MoveLeader(leader)
}

// ofAnotherCluster gives b the data of a cluster that has the same names and addresses and another token, so that b
// asks the others for votes in that one's name. They refuse it, and it refuses them, with etcd's words; they go on
// without it. When one of them is down its vote counts for nothing. With its own data it is a member as before.
func ofAnotherCluster(g *campaign, l *load, b *harness.Member) {
	g.t.Helper()
	leader, third := g.rest(b)
	seenByLeader, seenByThird := g.logSize(leader), g.logSize(third)
	own, args := b.DataDir()+".own", b.Args
	g.terminate(b)
	g.rename(b.DataDir(), own)
	b.Args = append(slices.Clone(args), "--initial-cluster-token=another")
	seen := g.logSize(b)
	g.c.Restart(b)
	g.waitLogged(b, seen, otherClusterID)
	g.terminate(b)
	b.Args = args // As it is always started; the directory decides.
	seen = g.logSize(b)
	g.c.Restart(b)
	g.waitLogged(b, seen, otherClusterID)
	g.waitLogged(leader, seenByLeader, otherClusterID)
	g.waitLogged(third, seenByThird, otherClusterID)
	g.waitWrites(l, l.now(), 50)

	g.c.Kill(leader)
	g.leaderless(b, third)
	g.c.Restart(leader)
	g.c.WaitReady(leader, third)
	g.waitWrites(l, l.now(), 50)
	g.c.Kill(b)
	g.rename(b.DataDir(), b.DataDir()+".foreign")
	g.rename(own, b.DataDir())
	g.c.Restart(b)
}

// --- Doing. -------------------------------------------------------------------------------------------------------

// rest returns the other two members of three, the first of which is made the leader.
func (g *campaign) rest(b *harness.Member) (leader, third *harness.Member) {
	g.t.Helper()
	others := but(g.c.Current(), b)
	g.c.MoveLeader(others[0])
	return others[0], others[1]
}

func (g *campaign) terminate(m *harness.Member) {
	g.t.Helper()
	if _, err := m.Terminate(); err != nil {
		g.t.Fatalf("%s: %v", m.Name, err)
	}
}

func (g *campaign) copyDir(from, to string) {
	g.t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		g.t.Fatalf("%v: %s", err, out)
	}
}

func (g *campaign) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *campaign) rename(from, to string) {
	g.t.Helper()
	g.must(os.Rename(from, to))
}

// --- Looking. -----------------------------------------------------------------------------------------------------

// acknowledged counts the writes that were sent after a moment and acknowledged.
func (l *load) acknowledged(since int64) (count int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.ops {
		if o.wrote() && o.call >= since {
			count++
		}
	}
	return count
}

// waitWrites waits until so many writes that were sent since a moment are acknowledged.
func (g *campaign) waitWrites(l *load, since int64, count int) {
	g.t.Helper()
	for deadline := time.Now().Add(harness.ReadyLimit); l.acknowledged(since) < count; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			g.t.Fatalf("%d writes acknowledged in %v, want %d", l.acknowledged(since), harness.ReadyLimit, count)
		}
	}
}

// waitPeers waits until a member's peer port answers.
func (g *campaign) waitPeers(m *harness.Member) {
	g.t.Helper()
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(harness.ReadyLimit); ; time.Sleep(5 * time.Millisecond) {
		resp, err := client.Get(m.PeerURL() + "/version")
		if err == nil {
			resp.Body.Close()
			return
		}
		if time.Now().After(deadline) || !m.Alive() {
			g.t.Fatalf("%s: %v\n%s", m.Name, err, m.LogTail(20))
		}
	}
}

func (g *campaign) logSize(m *harness.Member) int64 {
	g.t.Helper()
	info, err := os.Stat(m.LogPath())
	if err != nil {
		g.t.Fatal(err)
	}
	return info.Size()
}

// waitLogged waits until a member's log, from an offset on, holds a phrase.
func (g *campaign) waitLogged(m *harness.Member, since int64, phrase string) {
	g.t.Helper()
	if !g.says(m, since, phrase) {
		g.t.Fatalf("%s (running: %v) doesn't say %q; %s", m.Name, m.Alive(), phrase, m.LogTail(20))
	}
}

// says is waitLogged for what may never be said.
func (g *campaign) says(m *harness.Member, since int64, phrase string) bool {
	g.t.Helper()
	for deadline := time.Now().Add(logLimit); ; time.Sleep(10 * time.Millisecond) {
		text, err := tail(m.LogPath(), since)
		g.must(err)
		if strings.Contains(text, phrase) {
			return true
		}
		if time.Now().After(deadline) || !m.Alive() {
			return false
		}
	}
}

// leaderless demands that none of these members leads for a while in which they ask each other for votes.
func (g *campaign) leaderless(members ...*harness.Member) {
	g.t.Helper()
	for end := time.Now().Add(leaderlessFor); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if m := g.c.Leader(members...); m != nil {
			g.t.Fatalf("%s leads: it was given a vote that it must not get", m.Name)
		}
	}
}

// neverBoth demands that two processes with one id never led in the same term. That they are two is not seen by the
// campaign, which knows leaders by their ids.
func (g *campaign) neverBoth(a, b *harness.Member) {
	g.t.Helper()
	terms := map[string]bool{}
	for _, m := range []*harness.Member{a, b} {
		text, err := tail(m.LogPath(), 0)
		if err != nil {
			g.t.Fatal(err)
		}
		for _, found := range becameLeader.FindAllStringSubmatch(text, -1) {
			if terms[found[0]] {
				g.t.Errorf("both processes say that %s", found[0])
			}
			terms[found[0]] = true
		}
	}
}
