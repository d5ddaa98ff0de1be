// SPDX-License-Identifier: Apache-2.0

package raft_diff

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

var quiet = &raft.DefaultLogger{Logger: log.New(io.Discard, "", 0)}

// driver is the C side.
type driver struct {
	cmd *exec.Cmd
	in  *bufio.Writer
	out *bufio.Reader
}

func startDriver(t *testing.T) *driver {
	path := os.Getenv("RAFT_DRIVER")
	if path == "" {
		path = "../../build/release/tests/raft/raft_driver"
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no driver: build the project, or name it in RAFT_DRIVER: %v", err)
	}
	cmd := exec.Command(path)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	return &driver{cmd, bufio.NewWriterSize(in, 1<<20), bufio.NewReaderSize(out, 1<<20)}
}

func (d *driver) do(command string) ([]string, error) {
	d.in.WriteString(command)
	d.in.WriteByte('\n')
	if err := d.in.Flush(); err != nil {
		return nil, err
	}
	var lines []string
	for {
		line, err := d.out.ReadString('\n')
		if err != nil {
			return lines, fmt.Errorf("driver ended: %w", err)
		}
		line = line[:len(line)-1]
		if line == "." {
			return lines, nil
		}
		lines = append(lines, line)
	}
}

// store is the oracle's disk. Snapshots are taken of the applied state, as the owner of a raft does.
type store struct {
	*raft.MemoryStorage
	n *node
}

func (s *store) InitialState() (*pb.HardState, *pb.ConfState, error) {
	hs, _, err := s.MemoryStorage.InitialState()
	return hs, s.n.conf, err
}

func (s *store) Snapshot() (*pb.Snapshot, error) {
	term, err := s.MemoryStorage.Term(s.n.applied)
	if err != nil || s.n.applied == 0 {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	conf := s.n.conf
	if s.n.rn != nil {
		conf = s.n.trk().ConfState()
	}
	return snapshot(s.n.applied, term, conf), nil
}

func snapshot(index, term uint64, conf *pb.ConfState) *pb.Snapshot {
	return &pb.Snapshot{Metadata: &pb.SnapshotMetadata{Index: &index, Term: &term, ConfState: conf}}
}

// write is what one ready gave the disk.
type write struct {
	number     uint64
	append     *pb.Message
	selfAcks   []*pb.Message
	durable    []*pb.Message
	appendResp *pb.Message
}

type node struct {
	id      uint64
	rn      *raft.RawNode
	store   *store
	writes  []*write
	toApply []*pb.Entry
	applied uint64
	conf    *pb.ConfState
	reads   map[uint64]bool // not answered yet
	state   []string        // the C side's last state line, split
	seed    uint64
}

// field reaches into the oracle's raft.
func field[T any](n *node, name string) *T {
	r := reflect.ValueOf(n.rn).Elem().FieldByName("raft").Elem()
	return (*T)(unsafe.Pointer(r.FieldByName(name).UnsafeAddr()))
}

func (n *node) trk() *tracker.ProgressTracker { return field[tracker.ProgressTracker](n, "trk") }

func (n *node) persisted() uint64 {
	l := reflect.ValueOf(n.rn).Elem().FieldByName("raft").Elem().FieldByName("raftLog").Elem()
	return l.FieldByName("unstable").FieldByName("offset").Uint() - 1
}

func (n *node) lastIndex() uint64 {
	l := reflect.ValueOf(n.rn).Elem().FieldByName("raft").Elem().FieldByName("raftLog").Elem()
	u := l.FieldByName("unstable")
	if e := u.FieldByName("entries").Len(); e > 0 {
		return u.FieldByName("offset").Uint() + uint64(e) - 1
	}
	if !u.FieldByName("snapshot").IsNil() {
		return u.FieldByName("offset").Uint() - 1
	}
	last, _ := n.store.LastIndex()
	return last
}

func hex(b []byte) string { return fmt.Sprintf("%x", b) }

func entryText(e *pb.Entry) string {
	return fmt.Sprintf("%d:%d:%d:%s", e.GetType(), e.GetTerm(), e.GetIndex(), hex(e.GetData()))
}

func idsText(ids []uint64) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = strconv.FormatUint(id, 10)
	}
	return strings.Join(words, ",")
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

func confText(c *pb.ConfState) string {
	return fmt.Sprintf("%s/%s/%s/%s/%d", idsText(c.GetVoters()), idsText(c.GetVotersOutgoing()), idsText(c.GetLearners()),
		idsText(c.GetLearnersNext()), bit(c.GetAutoLeave()))
}

func snapText(s *pb.Snapshot) string {
	m := s.GetMetadata()
	return fmt.Sprintf("%d:%d:%s", m.GetIndex(), m.GetTerm(), confText(m.GetConfState()))
}

func messageText(m *pb.Message) string {
	ctx, snap := "-", "-"
	if len(m.GetContext()) > 0 {
		ctx = hex(m.GetContext())
	}
	if !raft.IsEmptySnap(m.GetSnapshot()) {
		snap = snapText(m.GetSnapshot())
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d %d %d %d %d %d %d %d %d %s %s", m.GetType(), m.GetTo(), m.GetFrom(), m.GetTerm(), m.GetLogTerm(), m.GetIndex(),
		m.GetCommit(), m.GetRejectHint(), bit(m.GetReject()), ctx, snap)
	for _, e := range m.GetEntries() {
		b.WriteByte(' ')
		b.WriteString(entryText(e))
	}
	return b.String()
}

var roles = map[raft.StateType]int{raft.StateFollower: 0, raft.StatePreCandidate: 1, raft.StateCandidate: 2, raft.StateLeader: 3}
