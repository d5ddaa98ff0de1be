// SPDX-License-Identifier: Apache-2.0

// Package peer_wire compares Cairn's codecs of the peer protocol, behind tests/peer_wire/tool, with etcd's own: raftpb of the
// published module, the transport of etcd's server on the other end of a connection, and its JSON of members.
package peer_wire

import (
	"bytes"
	"encoding/json"
	"math/rand"
	"slices"
	"testing"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const seed = 20261128

// The outcomes of peer_message.h.
const (
	wire    = 1
	ignored = 2
	unsafe  = 3
)

func number(r *rand.Rand) uint64 { return r.Uint64() >> r.Intn(64) }

func id(r *rand.Rand) uint64 {
	if v := number(r); v != 0 && v < 1<<64-2 {
		return v
	}
	return 1
}

func data(r *rand.Rand, max int) []byte {
	if r.Intn(5) == 0 {
		return nil
	}
	b := make([]byte, 1+r.Intn(max))
	r.Read(b)
	return b
}

// appendEntries fills in what follows (logTerm, index).
func appendEntries(r *rand.Rand, m *raftpb.Message, n int) {
	term := m.GetLogTerm()
	for i := range n {
		if term < m.GetTerm() && (term == 0 || r.Intn(4) == 0) {
			term += 1 + uint64(r.Int63n(int64(m.GetTerm()-term)))
		}
		e := &raftpb.Entry{Term: new(term), Index: new(m.GetIndex() + 1 + uint64(i)), Data: data(r, 400)}
		if r.Intn(5) == 0 {
			e.Type = raftpb.EntryConfChange.Enum()
		}
		m.Entries = append(m.Entries, e)
	}
}

func ids(r *rand.Rand, n int) []uint64 {
	seen := map[uint64]bool{}
	var s []uint64
	for v := uint64(0); n > 0; n-- {
		v += 1 + number(r)>>8
		if !seen[v] {
			s = append(s, v)
		}
		seen[v] = true
	}
	return s
}

func snapshot(r *rand.Rand, term uint64) *raftpb.Snapshot {
	return &raftpb.Snapshot{Data: data(r, 3000), Metadata: &raftpb.SnapshotMetadata{
		Index: new(1 + number(r)>>1), Term: new(1 + uint64(r.Int63n(int64(term)))),
		ConfState: &raftpb.ConfState{Voters: ids(r, 1+r.Intn(5)), Learners: ids(r, r.Intn(3)), VotersOutgoing: ids(r, r.Intn(3)),
			LearnersNext: ids(r, r.Intn(2)), AutoLeave: new(r.Intn(2) == 0)},
	}}
}

var messageTypes = []raftpb.MessageType{
	raftpb.MsgProp, raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgSnap, raftpb.MsgHeartbeat,
	raftpb.MsgHeartbeatResp, raftpb.MsgTransferLeader, raftpb.MsgTimeoutNow, raftpb.MsgReadIndex, raftpb.MsgReadIndexResp,
	raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
}

// message is one as etcd 3.7's raft fills it in, field by field.
func message(r *rand.Rand, typ raftpb.MessageType) *raftpb.Message {
	m := &raftpb.Message{Type: typ.Enum(), To: new(id(r)), From: new(id(r))}
	if typ != raftpb.MsgProp && typ != raftpb.MsgReadIndex {
		m.Term = new(1 + number(r)>>1)
	}
	context := func() {
		if r.Intn(2) == 0 {
			m.Context = make([]byte, 8)
			r.Read(m.Context)
		}
	}
	switch typ {
	case raftpb.MsgProp:
		for range 1 + r.Intn(4) {
			e := &raftpb.Entry{Data: data(r, 100)}
			if r.Intn(5) == 0 {
				e.Type = raftpb.EntryConfChange.Enum()
			}
			m.Entries = append(m.Entries, e)
		}
	case raftpb.MsgApp:
		m.LogTerm = new(number(r) % (m.GetTerm() + 1))
		m.Index = new(number(r) >> 1)
		m.Commit = new(number(r) * uint64(r.Intn(2)))
		appendEntries(r, m, r.Intn(10))
	case raftpb.MsgAppResp:
		m.Index = new(1 + number(r)>>1)
		if r.Intn(2) == 0 {
			m.Reject, m.RejectHint, m.LogTerm = new(true), new(number(r)*uint64(r.Intn(2))), new(number(r)*uint64(r.Intn(2)))
		}
	case raftpb.MsgVote, raftpb.MsgPreVote:
		m.Index, m.LogTerm = new(number(r)*uint64(r.Intn(2))), new(number(r)*uint64(r.Intn(2)))
		if r.Intn(3) == 0 {
			m.Context = []byte("CampaignTransfer")
		}
	case raftpb.MsgVoteResp, raftpb.MsgPreVoteResp:
		if r.Intn(2) == 0 {
			m.Reject = new(true)
		}
	case raftpb.MsgSnap:
		m.Snapshot = snapshot(r, m.GetTerm())
	case raftpb.MsgHeartbeat:
		m.Commit = new(number(r) * uint64(r.Intn(2)))
		context()
	case raftpb.MsgHeartbeatResp:
		context()
	case raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		m.Entries = []*raftpb.Entry{{Data: data(r, 8)}}
		if typ == raftpb.MsgReadIndexResp {
			m.Index = new(number(r) * uint64(r.Intn(2)))
		}
	}
	return m
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestMessages: what raftpb writes, Cairn reads, and writes again byte for byte.
func TestMessages(t *testing.T) {
	c, r := startTool(t), rand.New(rand.NewSource(seed))
	for i := range 30000 {
		m := message(r, messageTypes[i%len(messageTypes)])
		b := marshal(t, m)
		outcome, written := c.do('m', b)
		if m.GetType() == raftpb.MsgSnap {
			if outcome != ignored || len(written) < 8 {
				t.Fatalf("outcome %d of %v", outcome, m)
			}
			outcome, written = 0, written[8:]
		}
		if outcome != 0 || !bytes.Equal(b, written) {
			t.Fatalf("outcome %d of %v\n etcd  %x\n cairn %x", outcome, m, b, written)
		}
	}
}

// gogo writes a message as etcd 3.6 does: every scalar, and an empty snapshot where there is none.
func gogo(m *raftpb.Message) []byte {
	var b []byte
	scalar := func(n protowire.Number, v uint64) {
		b = protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
	}
	flag := func(n protowire.Number, v bool) { scalar(n, protowire.EncodeBool(v)) }
	scalar(1, uint64(m.GetType()))
	scalar(2, m.GetTo())
	scalar(3, m.GetFrom())
	scalar(4, m.GetTerm())
	scalar(5, m.GetLogTerm())
	scalar(6, m.GetIndex())
	for _, e := range m.Entries {
		b = protowire.AppendBytes(protowire.AppendTag(b, 7, protowire.BytesType), gogoEntry(e))
	}
	scalar(8, m.GetCommit())
	s := []byte{0x12, 0x08, 0x0a, 0x02, 0x28, 0x00, 0x10, 0x00, 0x18, 0x00}
	if m.Snapshot != nil {
		s, _ = proto.Marshal(m.Snapshot)
	}
	b = protowire.AppendBytes(protowire.AppendTag(b, 9, protowire.BytesType), s)
	flag(10, m.GetReject())
	scalar(11, m.GetRejectHint())
	if m.Context != nil {
		b = protowire.AppendBytes(protowire.AppendTag(b, 12, protowire.BytesType), m.Context)
	}
	scalar(13, 0)
	return b
}

func gogoEntry(e *raftpb.Entry) []byte {
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(e.GetType()))
	b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), e.GetTerm())
	b = protowire.AppendVarint(protowire.AppendTag(b, 3, protowire.VarintType), e.GetIndex())
	if e.Data != nil {
		b = protowire.AppendBytes(protowire.AppendTag(b, 4, protowire.BytesType), e.Data)
	}
	return b
}

// shuffled has the fields in another order, with unknown ones between them. The entries keep theirs.
func shuffled(r *rand.Rand, b []byte) []byte {
	var fields, entries [][]byte
	for len(b) > 0 {
		_, _, n := protowire.ConsumeField(b)
		if b[0] == 0x3a {
			entries = append(entries, b[:n])
		} else {
			fields = append(fields, b[:n])
		}
		b = b[n:]
	}
	for range r.Intn(4) {
		n := protowire.Number(15 + r.Intn(1<<20))
		switch r.Intn(4) {
		case 0:
			fields = append(fields, protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), r.Uint64()))
		case 1:
			fields = append(fields, protowire.AppendFixed64(protowire.AppendTag(nil, n, protowire.Fixed64Type), r.Uint64()))
		case 2:
			fields = append(fields, protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), data(r, 20)))
		default:
			group := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 5)
			fields = append(fields, protowire.AppendGroup(protowire.AppendTag(nil, n, protowire.StartGroupType), n, group))
		}
	}
	r.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	var all []byte
	for len(fields)+len(entries) > 0 {
		from := &fields
		if len(fields) == 0 || len(entries) > 0 && r.Intn(2) == 0 {
			from = &entries
		}
		all, *from = append(all, (*from)[0]...), (*from)[1:]
	}
	return all
}

// plain is what a message says: absent and zero are the same.
type plain struct {
	typ                                                   raftpb.MessageType
	to, from, term, logTerm, index, commit, hint, entries uint64
	reject                                                bool
	context, contents                                     string
}

func plainOf(m *raftpb.Message) plain {
	p := plain{typ: m.GetType(), to: m.GetTo(), from: m.GetFrom(), term: m.GetTerm(), logTerm: m.GetLogTerm(), index: m.GetIndex(),
		commit: m.GetCommit(), hint: m.GetRejectHint(), reject: m.GetReject(), entries: uint64(len(m.Entries)), context: string(m.Context)}
	var contents bytes.Buffer
	for _, e := range m.Entries {
		contents.Write(gogoEntry(&raftpb.Entry{Type: e.Type, Term: e.Term, Index: e.Index, Data: append([]byte{}, e.Data...)}))
	}
	if m.GetType() == raftpb.MsgSnap {
		s := m.GetSnapshot()
		c := s.GetMetadata().GetConfState()
		json.NewEncoder(&contents).Encode([]any{s.GetMetadata().GetIndex(), s.GetMetadata().GetTerm(), string(s.GetData()),
			append([]uint64{}, c.GetVoters()...), append([]uint64{}, c.GetLearners()...), append([]uint64{}, c.GetVotersOutgoing()...),
			append([]uint64{}, c.GetLearnersNext()...), c.GetAutoLeave()})
	}
	p.contents = contents.String()
	return p
}

// sameMessage compares what the C side wrote of b with what Go reads in b.
func sameMessage(t *testing.T, b, written []byte, want *raftpb.Message) {
	t.Helper()
	if want.GetType() == raftpb.MsgSnap {
		written = written[8:]
	}
	got := &raftpb.Message{}
	if err := proto.Unmarshal(written, got); err != nil {
		t.Fatalf("%x, of %x: %v", written, b, err)
	}
	if plainOf(got) != plainOf(want) {
		t.Fatalf("of %x\n etcd  %v\n cairn %v", b, want, got)
	}
}

// TestForeignForms: what etcd 3.6 and any other writer of protobuf may write.
func TestForeignForms(t *testing.T) {
	c, r := startTool(t), rand.New(rand.NewSource(seed))
	for i := range 20000 {
		m := message(r, messageTypes[i%len(messageTypes)])
		b := marshal(t, m)
		if r.Intn(2) == 0 {
			b = gogo(m)
		}
		if r.Intn(2) == 0 {
			b = shuffled(r, b)
		}
		outcome, written := c.do('m', b)
		if m.GetType() == raftpb.MsgSnap && outcome == ignored {
			outcome = 0
		}
		if outcome != 0 {
			t.Fatalf("outcome %d of %x, %v", outcome, b, m)
		}
		sameMessage(t, b, written, m)
	}
}

// stricter tells whether Cairn may refuse what Go takes: contexts and sets that nobody sends.
func stricter(m *raftpb.Message) bool {
	if len(m.Context) > 64 {
		return true
	}
	c := m.GetSnapshot().GetMetadata().GetConfState()
	for _, set := range [][]uint64{c.GetVoters(), c.GetLearners(), c.GetVotersOutgoing(), c.GetLearnersNext()} {
		seen := map[uint64]bool{}
		for _, v := range set {
			if seen[v] {
				return true
			}
			seen[v] = true
		}
	}
	return false
}

// laxer tells whether Go may refuse what Cairn takes: responses, which Cairn passes over.
func laxer(b []byte) bool {
	for len(b) > 0 {
		n, typ, size := protowire.ConsumeField(b)
		if size < 0 {
			return false
		}
		if n == 14 && typ == protowire.BytesType {
			return true
		}
		b = b[size:]
	}
	return false
}

func sorted(m *raftpb.Message) bool {
	c := m.GetSnapshot().GetMetadata().GetConfState()
	for _, set := range [][]uint64{c.GetVoters(), c.GetLearners(), c.GetVotersOutgoing(), c.GetLearnersNext()} {
		for i := 1; i < len(set); i++ {
			if set[i] <= set[i-1] {
				return false
			}
		}
	}
	return true
}

// passedOver tells whether raft has nothing to do with a message.
func passedOver(m *raftpb.Message) bool {
	for _, e := range m.Entries {
		if _, known := raftpb.EntryType_name[int32(e.GetType())]; !known {
			return true
		}
	}
	return m.GetType() == raftpb.MsgSnap || !slices.Contains(messageTypes, m.GetType())
}

func changed(r *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	for range 1 + r.Intn(3) {
		i := r.Intn(len(b) + 1)
		switch {
		case i == len(b) || r.Intn(8) == 0:
			b = b[:i]
		case r.Intn(4) == 0:
			b = append(b[:i:i], append([]byte{byte(r.Intn(256))}, b[i:]...)...)
		default:
			b[i] ^= 1 << r.Intn(8)
		}
	}
	return b
}

// TestChangedBytes: Cairn takes what Go takes, and understands the same.
func TestChangedBytes(t *testing.T) {
	c, r := startTool(t), rand.New(rand.NewSource(seed))
	counts := map[string]int{}
	for i := range 60000 {
		b := changed(r, marshal(t, message(r, messageTypes[i%len(messageTypes)])))
		want := &raftpb.Message{}
		err := proto.Unmarshal(b, want)
		outcome, written := c.do('m', b)
		refused := outcome&15 == wire
		switch {
		case err != nil && !refused && !laxer(b):
			t.Fatalf("etcd refuses %x: %v", b, err)
		case err == nil && refused && !stricter(want):
			t.Fatalf("cairn refuses %x, %v", b, want)
		case err != nil || refused:
			counts["refused"]++
		case (outcome&15 == ignored) != passedOver(want):
			t.Fatalf("outcome %d of %x, %v", outcome, b, want)
		case outcome>>4 == unsafe:
			counts["unsafe"]++
		case len(written) > 0 && sorted(want):
			counts["same"]++
			sameMessage(t, b, written, want)
		}
	}
	t.Log(counts)
	for _, what := range []string{"refused", "unsafe", "same"} {
		if counts[what] < 1000 {
			t.Errorf("only %d are %s", counts[what], what)
		}
	}
}

func text(r *rand.Rand) string {
	letters := []string{"a", "1", "-", `"`, `\`, "<", "&", "\n", "ü", "\u2028", "😀", "\x7f", "http://b:2380"}
	s := ""
	for range r.Intn(8) {
		s += letters[r.Intn(len(letters))]
	}
	return s
}

func texts(r *rand.Rand) []string {
	s := []string{}
	for range r.Intn(4) {
		s = append(s, text(r))
	}
	return s
}

// TestMembers: the peers' /members, which etcd writes with encoding/json.
func TestMembers(t *testing.T) {
	c, r := startTool(t), rand.New(rand.NewSource(seed))
	for range 3000 {
		members := []*membership.Member{}
		for range r.Intn(6) {
			members = append(members, &membership.Member{ID: types.ID(number(r)),
				RaftAttributes: membership.RaftAttributes{PeerURLs: texts(r), IsLearner: r.Intn(3) == 0},
				Attributes:     membership.Attributes{Name: text(r), ClientURLs: texts(r)}})
		}
		var b bytes.Buffer
		if err := json.NewEncoder(&b).Encode(members); err != nil {
			t.Fatal(err)
		}
		if written := c.ok('j', b.Bytes()); !bytes.Equal(written, b.Bytes()) {
			t.Fatalf("\n etcd  %s\n cairn %s", b.Bytes(), written)
		}
	}
}
