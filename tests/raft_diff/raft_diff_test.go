// SPDX-License-Identifier: Apache-2.0

// Package raft_diff sends the same random steps to Cairn's raft, behind tests/raft/raft_driver, and to go.etcd.io/raft/v3,
// and compares every ready, message, commit and progress after each of them.
//
// The oracle runs with asynchronous storage writes, because its contract is then ours: disk acknowledgements are inputs, and
// nothing is applied that is not durable. It draws election timeouts from a source that can't be seeded, so after each step
// its timeout is set to the one that Cairn has drawn.
//
// Wanted deviations, each with a script of its own under tests/raft, and how they are kept out of the comparison:
//
//   - a sole voter answers no read before an entry of its term is committed: such reads are not issued (single_start);
//   - reads postponed by a leader that steps down are lost, not kept for its next term: the oracle's are cleared (read_lost);
//   - a granted pre-vote of an earlier question is ignored: it is not delivered (pre_vote_stale);
//   - a read is answered once, and not at all after it was reported lost: the oracle's other answers are dropped (read_lost);
//   - messages that claim to come from their receiver are refused: they are not delivered;
//   - several appends of one write are acknowledged to oneself once: the oracle gets the last of them.
package raft_diff

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/confchange"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"
)

type world struct {
	t       *testing.T
	rng     *rand.Rand
	d       *driver
	cfg     config
	nodes   []*node
	network []*pb.Message
	cut     map[[2]uint64]bool
	nextID  uint64
	steps   int
	trace   []string
	stats   map[string]int
}

type config struct {
	preVote, checkQuorum                    bool
	msgBytes, inflightBytes, uncommitted    uint64
	applying                                uint64
	inflight                                int
	confChanges, compaction, restarts, cuts bool
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	from := max(0, len(w.trace)-60)
	w.t.Fatalf("%s\nlast commands:\n%s", fmt.Sprintf(format, args...), strings.Join(w.trace[from:], "\n"))
}

func (w *world) do(command string) []string {
	w.trace = append(w.trace, command)
	if len(w.trace) > 4000 {
		w.trace = append([]string(nil), w.trace[2000:]...)
	}
	lines, err := w.d.do(command)
	if err != nil {
		w.fail("%v", err)
	}
	return lines
}

// stateText is the oracle's state in the driver's words, but for what the driver alone can say.
func (w *world) stateText(n *node) string {
	s := n.rn.Status()
	pending := *field[uint64](n, "pendingConfIndex")
	if s.RaftState != raft.StateLeader {
		pending = 0
	}
	uncommitted := *field[uint64](n, "uncommittedSize")
	var b strings.Builder
	fmt.Fprintf(&b, "%d %d %d %d %d %d last %d persisted %d pending %d uncommitted %d transferee %d %s", roles[s.RaftState], s.GetTerm(),
		s.GetVote(), s.Lead, s.GetCommit(), s.Applied, n.lastIndex(), n.persisted(), pending, uncommitted, s.LeadTransferee,
		confText(n.trk().ConfState()))
	if s.RaftState == raft.StateLeader {
		n.trk().Visit(func(id uint64, p *tracker.Progress) {
			if id == n.id {
				fmt.Fprintf(&b, " %d:0:0:0:%d:%d:0:0:0", id, bit(p.IsLearner), bit(p.RecentActive))
				return
			}
			fmt.Fprintf(&b, " %d:%d:%d:%d:%d:%d:%d:%d:%d", id, p.State, p.Match, p.Next, bit(p.IsLearner), bit(p.RecentActive),
				bit(p.IsPaused()), p.PendingSnapshot, p.Inflights.Count())
		})
	}
	return b.String()
}

// check compares the states after a step; lines ends with the driver's state.
func (w *world) check(n *node, lines []string) {
	f := strings.Fields(lines[len(lines)-1])
	n.state = f
	*field[int](n, "randomizedElectionTimeout") = atoi(f[11])
	if n.rn.BasicStatus().RaftState != raft.StateLeader {
		*field[[]*pb.Message](n, "pendingReadIndexMessages") = nil
	}
	ours := fmt.Sprintf("%s last %s persisted %s pending %s uncommitted %s transferee %s %s", strings.Join(f[2:8], " "), f[9], f[10], f[12],
		f[13], f[14], strings.Join(f[16:], " "))
	if theirs := w.stateText(n); ours != theirs {
		w.fail("node %d, state\n cairn  %s\n oracle %s", n.id, ours, theirs)
	}
}

func atoi(s string) int {
	v, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return v
}

func (n *node) outcome() int { return atoi(n.state[1]) }

func (w *world) hasReady(n *node) bool { return n.state[15] == "1" || n.rn.HasReady() }

func (w *world) start(n *node) {
	hs, _, _ := n.store.MemoryStorage.InitialState()
	commit := max(hs.GetCommit(), n.applied)
	term, vote := hs.GetTerm(), hs.GetVote()
	n.store.SetHardState(&pb.HardState{Term: &term, Vote: &vote, Commit: &commit})
	first, _ := n.store.FirstIndex()
	last, _ := n.store.LastIndex()
	base := first - 1
	baseTerm, err := n.store.Term(base)
	if err != nil {
		w.fail("term of base: %v", err)
	}
	rn, err := raft.NewRawNode(&raft.Config{
		ID: n.id, ElectionTick: 10, HeartbeatTick: 1, Storage: n.store, Applied: n.applied, AsyncStorageWrites: true,
		MaxSizePerMsg: w.cfg.msgBytes, MaxCommittedSizePerReady: w.cfg.applying, MaxUncommittedEntriesSize: w.cfg.uncommitted,
		MaxInflightMsgs: w.cfg.inflight, MaxInflightBytes: w.cfg.inflightBytes, CheckQuorum: w.cfg.checkQuorum, PreVote: w.cfg.preVote,
		Logger: quiet, StepDownOnRemoval: true,
	})
	if err != nil {
		w.fail("%v", err)
	}
	n.rn = rn
	n.seed++
	var b strings.Builder
	fmt.Fprintf(&b, "new %d %d 10 1 %d %d %d %d %d %d %d %d %d %d %d %d %d %s", n.id, n.seed*100+n.id, bit(w.cfg.preVote), bit(w.cfg.checkQuorum),
		w.cfg.msgBytes, w.cfg.inflight, w.cfg.inflightBytes, w.cfg.uncommitted, w.cfg.applying, term, vote, commit, base, baseTerm,
		n.applied, confText(n.conf))
	if last >= first {
		ents, err := n.store.Entries(first, last+1, math.MaxUint64)
		if err != nil {
			w.fail("%v", err)
		}
		for _, e := range ents {
			b.WriteByte(' ')
			b.WriteString(entryText(e))
		}
	}
	w.check(n, w.do(b.String()))
}

func (w *world) restart(n *node) {
	n.writes, n.toApply, n.reads = nil, nil, map[uint64]bool{}
	w.start(n)
}

func readID(e *pb.Entry) uint64 {
	if len(e.GetData()) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(e.GetData())
}

// ready takes a ready from both and compares.
func (w *world) ready(n *node) {
	var want []string
	var rd raft.Ready
	wr := &write{}
	var sent []*pb.Message
	if n.rn.HasReady() {
		rd = n.rn.Ready()
	}
	if rd.SoftState != nil {
		want = append(want, fmt.Sprintf("soft %d %d", roles[rd.SoftState.RaftState], rd.SoftState.Lead))
	}
	if !raft.IsEmptyHardState(rd.HardState) {
		want = append(want, fmt.Sprintf("hard %d %d %d", rd.HardState.GetTerm(), rd.HardState.GetVote(), rd.HardState.GetCommit()))
	}
	if !raft.IsEmptySnap(rd.Snapshot) {
		want = append(want, "snap "+snapText(rd.Snapshot))
	}
	for _, e := range rd.Entries {
		want = append(want, "entry "+entryText(e))
	}
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			wr.append = m
			w.sortResponses(n, wr, m.GetResponses())
		case raft.LocalApplyThread:
		default:
			want = append(want, "msg "+messageText(m))
			sent = append(sent, m)
		}
	}
	for _, m := range wr.durable {
		want = append(want, "dmsg "+messageText(m))
	}
	for _, e := range rd.CommittedEntries {
		want = append(want, "apply "+entryText(e))
	}
	lines := w.do(fmt.Sprintf("ready %d", n.id))
	head := strings.Fields(lines[0])
	wr.number, _ = strconv.ParseUint(head[1], 10, 64)
	if mustSync := rd.MustSync || !raft.IsEmptySnap(rd.Snapshot); bit(mustSync) != atoi(head[2]) {
		w.fail("node %d: must sync %v against %v", n.id, head[2], mustSync)
	}
	var got []string
	for _, l := range lines[1 : len(lines)-1] {
		switch f := strings.Fields(l); f[0] {
		case "lost":
			id, _ := strconv.ParseUint(f[1], 10, 64)
			delete(n.reads, id)
			w.stats["reads lost"]++
		case "read":
			got = append(got, l)
		default:
			got = append(got, l)
		}
	}
	for _, rs := range rd.ReadStates {
		id := binary.BigEndian.Uint64(rs.RequestCtx)
		if n.reads[id] {
			want = append(want, fmt.Sprintf("read %d %d", id, rs.Index))
			delete(n.reads, id)
			w.stats["reads answered"]++
		}
	}
	if g, x := strings.Join(got, "\n"), strings.Join(want, "\n"); g != x {
		w.fail("node %d, ready\n cairn:\n%s\n oracle:\n%s", n.id, g, x)
	}
	if wr.append != nil {
		n.writes = append(n.writes, wr)
	}
	n.toApply = append(n.toApply, rd.CommittedEntries...)
	w.preVoteSelf(n, wr)
	for _, m := range sent {
		w.send(n, m)
	}
	w.check(n, lines)
}

// sortResponses tells what a write's end means for ourselves from what it lets go to others.
func (w *world) sortResponses(n *node, wr *write, responses []*pb.Message) {
	for _, m := range responses {
		switch {
		case m.GetType() == pb.MsgStorageAppendResp:
			wr.appendResp = m
		case m.GetTo() != n.id:
			wr.durable = append(wr.durable, m)
		case m.GetType() == pb.MsgAppResp && len(wr.selfAcks) > 0 && wr.selfAcks[len(wr.selfAcks)-1].GetType() == pb.MsgAppResp &&
			wr.selfAcks[len(wr.selfAcks)-1].GetTerm() == m.GetTerm():
			wr.selfAcks[len(wr.selfAcks)-1] = m
		default:
			wr.selfAcks = append(wr.selfAcks, m)
		}
	}
}

// preVoteSelf: our own pre-vote counts as soon as the ready is handed out.
func (w *world) preVoteSelf(n *node, wr *write) {
	rest := wr.selfAcks[:0]
	for _, m := range wr.selfAcks {
		if m.GetType() != pb.MsgPreVoteResp {
			rest = append(rest, m)
		} else if s := n.rn.BasicStatus(); s.RaftState == raft.StatePreCandidate && m.GetTerm() == s.GetTerm()+1 {
			n.rn.Step(m)
		}
	}
	wr.selfAcks = rest
}

func (w *world) send(n *node, m *pb.Message) {
	if w.cut[[2]uint64{n.id, m.GetTo()}] {
		return
	}
	m = proto.Clone(m).(*pb.Message)
	if m.GetType() == pb.MsgSnap { // the owner sends the state as it is now
		term, err := n.store.Term(n.applied)
		if err != nil {
			return
		}
		m.Snapshot = snapshot(n.applied, term, n.conf)
		w.stats["snapshots sent"]++
	}
	w.network = append(w.network, m)
}

// persist ends the oldest writes, count of them.
func (w *world) persist(n *node, count int) {
	count = min(count, len(n.writes))
	if count == 0 {
		return
	}
	var installed []uint64
	var skipped []*pb.Entry // handed out to be applied, then overtaken by a snapshot
	for _, wr := range n.writes[:count] {
		a := wr.append
		if !raft.IsEmptySnap(a.GetSnapshot()) {
			if err := n.store.ApplySnapshot(a.GetSnapshot()); err != nil {
				w.fail("%v", err)
			}
			n.applied = a.GetSnapshot().GetMetadata().GetIndex()
			n.conf = a.GetSnapshot().GetMetadata().GetConfState()
			skipped = append(skipped, n.toApply...)
			n.toApply = nil
			installed = append(installed, n.applied)
			w.stats["snapshots installed"]++
		}
		if len(a.GetEntries()) > 0 {
			if err := n.store.Append(a.GetEntries()); err != nil {
				w.fail("%v", err)
			}
		}
		if a.GetTerm() != 0 {
			term, vote, commit := a.GetTerm(), a.GetVote(), a.GetCommit()
			n.store.SetHardState(&pb.HardState{Term: &term, Vote: &vote, Commit: &commit})
		}
		for _, m := range wr.durable {
			w.send(n, m)
		}
		for _, m := range wr.selfAcks {
			n.rn.Step(m)
		}
		if wr.appendResp != nil {
			n.rn.Step(wr.appendResp)
		}
	}
	number := n.writes[count-1].number
	n.writes = n.writes[count:]
	lines := w.do(fmt.Sprintf("persisted %d %d", n.id, number))
	for _, index := range installed {
		lines = w.do(fmt.Sprintf("installed %d %d", n.id, index))
	}
	if len(skipped) > 0 {
		n.applyResp(skipped)
	}
	w.check(n, lines)
}

func decodeConf(e *pb.Entry) *pb.ConfChangeV2 {
	if e.GetType() == pb.EntryConfChange {
		cc := &pb.ConfChange{}
		if err := proto.Unmarshal(e.GetData(), cc); err != nil {
			panic(err)
		}
		return cc.AsV2()
	}
	cc := &pb.ConfChangeV2{}
	if err := proto.Unmarshal(e.GetData(), cc); err != nil {
		panic(err)
	}
	return cc
}

func (n *node) applicable(cc *pb.ConfChangeV2) bool {
	c := confchange.Changer{Tracker: *n.trk(), LastIndex: n.lastIndex()}
	var err error
	if cc.LeaveJoint() {
		_, _, err = c.LeaveJoint()
	} else if auto, ok := cc.EnterJoint(); ok {
		_, _, err = c.EnterJoint(auto, cc.Changes...)
	} else {
		_, _, err = c.Simple(cc.Changes...)
	}
	return err == nil
}

func confCommand(id uint64, cc *pb.ConfChangeV2) string {
	var b strings.Builder
	fmt.Fprintf(&b, "conf %d %d", id, cc.GetTransition())
	for _, c := range cc.GetChanges() {
		fmt.Fprintf(&b, " %d:%d", c.GetType(), c.GetNodeId())
	}
	return b.String()
}

func (w *world) applyConf(n *node, e *pb.Entry) {
	cc := decodeConf(e)
	if !n.applicable(cc) {
		// The oracle would panic. Ours must say so and change nothing.
		w.check(n, w.do(confCommand(n.id, cc)))
		if n.outcome() != 2 {
			w.fail("node %d took a change that can't be applied: outcome %d", n.id, n.outcome())
		}
		w.stats["changes refused by raft"]++
		return
	}
	if e.GetIndex()%7 == 0 && len(cc.GetChanges()) == 1 && cc.GetTransition() == pb.ConfChangeTransitionAuto {
		cc.Changes[0].NodeId = new(uint64) // refused by the state machine
		if !n.applicable(cc) {
			return
		}
	}
	n.conf = n.rn.ApplyConfChange(cc)
	w.check(n, w.do(confCommand(n.id, cc)))
	w.stats["changes applied"]++
}

func (w *world) apply(n *node, count int) {
	count = min(count, len(n.toApply))
	if count == 0 {
		return
	}
	ents := n.toApply[:count]
	for _, e := range ents {
		if e.GetIndex() != n.applied+1 {
			w.fail("node %d applies %d after %d", n.id, e.GetIndex(), n.applied)
		}
		if e.GetType() != pb.EntryNormal {
			w.applyConf(n, e)
		}
		n.applied = e.GetIndex()
	}
	n.toApply = n.toApply[count:]
	n.applyResp(ents)
	w.check(n, w.do(fmt.Sprintf("applied %d %d", n.id, n.applied)))
	w.stats["entries applied"] += count
}

// applyResp tells the oracle what has been applied.
func (n *node) applyResp(ents []*pb.Entry) {
	resp, self, from := pb.MsgStorageApplyResp, n.id, raft.LocalApplyThread
	n.rn.Step(&pb.Message{Type: &resp, To: &self, From: &from, Entries: ents})
}

func (w *world) inTerm(n *node) bool {
	s := n.rn.BasicStatus()
	term, err := n.store.Term(s.GetCommit())
	if err != nil { // not on its disk yet
		return false
	}
	return term == s.GetTerm()
}

// keptOut: what the list of deviations above excludes.
func (w *world) keptOut(n *node, m *pb.Message) bool {
	s := n.rn.BasicStatus()
	switch m.GetType() {
	case pb.MsgPreVoteResp:
		return s.RaftState == raft.StatePreCandidate && !m.GetReject() && m.GetTerm() != s.GetTerm()+1
	case pb.MsgReadIndex:
		return s.RaftState == raft.StateLeader && n.trk().IsSingleton() && !w.inTerm(n)
	}
	return m.GetFrom() == n.id
}

func (w *world) deliver(i int, keep bool) {
	m := w.network[i]
	if !keep {
		w.network = append(w.network[:i:i], w.network[i+1:]...)
	}
	n := w.node(m.GetTo())
	if n == nil || w.keptOut(n, m) {
		return
	}
	leaves := 0
	for _, e := range m.GetEntries() {
		if m.GetType() == pb.MsgProp && e.GetType() != pb.EntryNormal && len(decodeConf(e).GetChanges()) == 0 {
			leaves = 1
		}
	}
	command := fmt.Sprintf("msg %d %d %s", n.id, leaves, messageText(m))
	n.rn.Step(proto.Clone(m).(*pb.Message))
	w.check(n, w.do(command))
	w.stats[m.GetType().String()]++
}

func (w *world) node(id uint64) *node {
	if id == 0 || id > uint64(len(w.nodes)) {
		return nil
	}
	return w.nodes[id-1]
}

func (w *world) propose(n *node) {
	var ents []*pb.Entry
	command := fmt.Sprintf("propose %d 0", n.id)
	for i := 0; i < 1+w.rng.Intn(3); i++ {
		e := &pb.Entry{}
		if size := w.rng.Intn(40); size > 0 {
			e.Data = make([]byte, size)
			w.rng.Read(e.Data)
		}
		ents = append(ents, e)
		command += " " + entryText(e)
	}
	w.proposal(n, ents, command)
}

func (w *world) proposal(n *node, ents []*pb.Entry, command string) {
	typ, from := pb.MsgProp, n.id
	err := n.rn.Step(&pb.Message{Type: &typ, From: &from, Entries: ents})
	w.check(n, w.do(command))
	if (err != nil) != (n.outcome() == 1) {
		w.fail("node %d, proposal: outcome %d against %v", n.id, n.outcome(), err)
	}
}

func (w *world) proposeConf(n *node) {
	cc := &pb.ConfChangeV2{}
	if w.rng.Intn(3) == 0 {
		t := pb.ConfChangeTransition(w.rng.Intn(3))
		cc.Transition = &t
	}
	for i := w.rng.Intn(4); i > 0; i-- {
		id := uint64(1 + w.rng.Intn(len(w.nodes)))
		typ := []pb.ConfChangeType{pb.ConfChangeAddNode, pb.ConfChangeAddNode, pb.ConfChangeAddLearnerNode, pb.ConfChangeRemoveNode,
			pb.ConfChangeUpdateNode}[w.rng.Intn(5)]
		cc.Changes = append(cc.Changes, &pb.ConfChangeSingle{Type: &typ, NodeId: &id})
	}
	typ := pb.EntryConfChangeV2
	data, err := proto.Marshal(cc)
	if len(cc.Changes) == 1 && cc.Transition == nil && w.rng.Intn(2) == 0 {
		typ = pb.EntryConfChange
		data, err = proto.Marshal(&pb.ConfChange{Type: cc.Changes[0].Type, NodeId: cc.Changes[0].NodeId})
	}
	if err != nil {
		w.fail("%v", err)
	}
	e := &pb.Entry{Type: &typ, Data: data}
	w.proposal(n, []*pb.Entry{e}, fmt.Sprintf("propose %d %d %s", n.id, bit(len(cc.Changes) == 0), entryText(e)))
}

func (w *world) read(n *node) {
	s := n.rn.BasicStatus()
	if s.RaftState == raft.StateLeader && n.trk().IsSingleton() && !w.inTerm(n) {
		return
	}
	w.nextID++
	ctx := make([]byte, 8)
	binary.BigEndian.PutUint64(ctx, w.nextID)
	n.reads[w.nextID] = true
	n.rn.ReadIndex(ctx)
	w.check(n, w.do(fmt.Sprintf("read %d %d", n.id, w.nextID)))
	if n.outcome() != 0 {
		delete(n.reads, w.nextID)
	}
}

func (w *world) compact(n *node) {
	first, _ := n.store.FirstIndex()
	if n.applied < first {
		return
	}
	index := n.applied
	if w.rng.Intn(3) == 0 {
		index = first + uint64(w.rng.Int63n(int64(n.applied-first+1)))
	}
	if err := n.store.Compact(index); err != nil {
		w.fail("%v", err)
	}
	w.check(n, w.do(fmt.Sprintf("compact %d %d", n.id, index)))
	w.stats["compactions"]++
}

func (w *world) anyNode() *node { return w.nodes[w.rng.Intn(len(w.nodes))] }

func (w *world) leader() *node {
	for _, i := range w.rng.Perm(len(w.nodes)) {
		if w.nodes[i].rn.BasicStatus().RaftState == raft.StateLeader {
			return w.nodes[i]
		}
	}
	return w.anyNode()
}

func (w *world) rare(n *node) {
	other := uint64(1 + w.rng.Intn(len(w.nodes)))
	switch w.rng.Intn(18) {
	case 0:
		n.rn.Campaign()
		w.check(n, w.do(fmt.Sprintf("campaign %d", n.id)))
	case 2:
		n = w.leader()
		n.rn.TransferLeader(other)
		w.check(n, w.do(fmt.Sprintf("transfer %d %d", n.id, other)))
	case 3:
		n.rn.ForgetLeader()
		w.check(n, w.do(fmt.Sprintf("forget %d", n.id)))
	case 4:
		n = w.leader()
		n.rn.ReportUnreachable(other)
		w.check(n, w.do(fmt.Sprintf("unreachable %d %d", n.id, other)))
	case 5, 6:
		n = w.leader()
		ok := w.rng.Intn(2) == 0
		status := raft.SnapshotFailure
		if ok {
			status = raft.SnapshotFinish
		}
		n.rn.ReportSnapshot(other, status)
		w.check(n, w.do(fmt.Sprintf("snapdone %d %d %d", n.id, other, bit(ok))))
	case 7, 8:
		if w.cfg.compaction {
			w.compact(w.pick(n))
		}
	case 9:
		if w.cfg.restarts {
			w.restart(n)
			w.stats["restarts"]++
		}
	case 10:
		if w.cfg.cuts {
			w.cutOff(n, other)
		}
	case 11:
		clear(w.cut)
	case 12, 13:
		for i := w.rng.Intn(25); i > 0; i-- {
			n.rn.Tick()
			w.check(n, w.do(fmt.Sprintf("tick %d", n.id)))
		}
	default:
		if w.cfg.confChanges {
			w.proposeConf(w.leader())
		}
	}
}

// cutOff: one direction, or everything from and to a node until the cuts are healed.
func (w *world) cutOff(n *node, other uint64) {
	if w.rng.Intn(2) == 0 {
		w.cut[[2]uint64{n.id, other}] = true
		return
	}
	for _, o := range w.nodes {
		w.cut[[2]uint64{n.id, o.id}] = true
		w.cut[[2]uint64{o.id, n.id}] = true
	}
}

func (w *world) step() {
	w.steps++
	n := w.anyNode()
	switch k := w.rng.Intn(100); {
	case k < 40:
		if len(w.network) == 0 {
			return
		}
		i := 0
		if w.rng.Intn(4) == 0 { // out of order
			i = w.rng.Intn(min(len(w.network), 20))
		}
		switch w.rng.Intn(30) {
		case 0:
			w.network = append(w.network[:i:i], w.network[i+1:]...)
		case 1:
			w.deliver(i, true)
		default:
			w.deliver(i, false)
		}
	case k < 65:
		if w.hasReady(n) {
			w.ready(n)
		}
	case k < 75:
		w.persist(n, 1+w.rng.Intn(3))
	case k < 83:
		w.apply(n, 1+w.rng.Intn(6))
	case k < 87:
		n = w.pick(n)
		n.rn.Tick()
		w.check(n, w.do(fmt.Sprintf("tick %d", n.id)))
	case k < 91:
		w.propose(w.pick(n))
	case k < 94:
		w.read(w.pick(n))
	default:
		w.rare(n)
	}
	if len(w.network) > 300 {
		w.network = w.network[150:]
	}
}

// pick prefers the leader, which has more to do.
func (w *world) pick(n *node) *node {
	if w.rng.Intn(2) == 0 {
		return w.leader()
	}
	return n
}

// settle lets everything through for a while, so that the next storm finds a working cluster.
func (w *world) settle() {
	for round := 0; round < 3; round++ {
		w.drain()
		if n := w.leader(); n.rn.BasicStatus().RaftState != raft.StateLeader {
			n.rn.Campaign()
			w.check(n, w.do(fmt.Sprintf("campaign %d", n.id)))
		} else {
			n.rn.Tick()
			w.check(n, w.do(fmt.Sprintf("tick %d", n.id)))
			w.propose(n)
		}
	}
	w.drain()
}

func (w *world) drain() {
	for round := 0; round < 4; round++ {
		for _, n := range w.nodes {
			for i := 0; i < 5 && (w.hasReady(n) || len(n.writes) > 0 || len(n.toApply) > 0); i++ {
				if w.hasReady(n) {
					w.ready(n)
				}
				w.persist(n, len(n.writes))
				w.apply(n, len(n.toApply))
				w.steps++
			}
		}
		for n := len(w.network); n > 0 && len(w.network) > 0; n-- {
			w.deliver(0, false)
			w.steps++
		}
	}
}

func newWorld(t *testing.T, d *driver, seed int64, stats map[string]int) *world {
	rng := rand.New(rand.NewSource(seed))
	w := &world{t: t, rng: rng, d: d, cut: map[[2]uint64]bool{}, stats: stats}
	w.cfg = config{
		preVote: rng.Intn(2) == 0, checkQuorum: rng.Intn(2) == 0, msgBytes: math.MaxUint64, applying: math.MaxUint64,
		inflight: 1 + rng.Intn(6), confChanges: rng.Intn(2) == 0, compaction: rng.Intn(2) == 0, restarts: rng.Intn(2) == 0,
		cuts: rng.Intn(2) == 0,
	}
	if rng.Intn(2) == 0 {
		w.cfg.uncommitted = uint64(20 + rng.Intn(200))
	}
	if rng.Intn(4) == 0 {
		w.cfg.msgBytes = 0
	} else if !w.cfg.confChanges && rng.Intn(2) == 0 {
		// Not with configuration changes: the oracle counts two bytes more for a refused one.
		w.cfg.msgBytes = uint64(30 + rng.Intn(200))
		w.cfg.inflightBytes = w.cfg.msgBytes + uint64(rng.Intn(200))
		w.cfg.applying = uint64(30 + rng.Intn(200))
	}
	size := 1 + rng.Intn(7)
	voters := 1 + rng.Intn(size)
	conf := &pb.ConfState{}
	for id := 1; id <= voters; id++ {
		conf.Voters = append(conf.Voters, uint64(id))
	}
	learners := 0
	if size > voters {
		learners = rng.Intn(size - voters + 1)
	}
	for id := voters + 1; id <= voters+learners; id++ {
		conf.Learners = append(conf.Learners, uint64(id))
	}
	for id := 1; id <= size; id++ {
		// The log does not hold the members it began with, so a node that joins later must know them
		// too: one that read the log from the start without them would count other majorities.
		n := &node{id: uint64(id), conf: conf, reads: map[uint64]bool{}, seed: uint64(seed) * 1000}
		n.store = &store{raft.NewMemoryStorage(), n}
		w.nodes = append(w.nodes, n)
		w.start(n)
	}
	return w
}

func envInt(name string, otherwise int64) int64 {
	if v, err := strconv.ParseInt(os.Getenv(name), 10, 64); err == nil {
		return v
	}
	return otherwise
}

func TestSameAsEtcd(t *testing.T) {
	d := startDriver(t)
	total := envInt("RAFT_DIFF_STEPS", 1000000)
	seed := envInt("RAFT_DIFF_SEED", time.Now().UnixNano()%1000000)
	stats := map[string]int{}
	for steps := int64(0); steps < total; seed++ {
		w := newWorld(t, d, seed, stats)
		failed := true
		func() {
			defer func() {
				if failed {
					t.Logf("RAFT_DIFF_SEED=%d RAFT_DIFF_STEPS=1 runs this again; %+v, %d nodes", seed, w.cfg, len(w.nodes))
				}
			}()
			for w.steps < 3000 {
				for i := 0; i < 300; i++ {
					w.step()
				}
				w.settle()
			}
			failed = false
		}()
		for _, n := range w.nodes {
			w.do(fmt.Sprintf("free %d", n.id))
			if n.rn.BasicStatus().RaftState == raft.StateLeader {
				stats["worlds that end with a leader"]++
			}
		}
		steps += int64(w.steps)
		stats["worlds"]++
		stats["steps"] += w.steps
	}
	t.Logf("last seed %d: %v", seed-1, stats)
}
