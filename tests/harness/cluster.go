// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Cluster is several members of either kind behind one Network. Clients reach members directly; members reach each
// other only through the network's doors, which are what they advertise.
//
// One thread, the test's, makes and changes a cluster. What a Member offers may be used by any.
type Cluster struct {
	Net     *Network
	Members []*Member // In order of creation; those that were removed stay in it.

	t    testing.TB // Which fails when something can't be done.
	home testing.TB // At whose end the cluster ends.
	dir  string
	args []string
}

// Member is one member's place in a cluster: its process, its data, its door.
type Member struct {
	*Server
	Index   int // In Cluster.Members, and what Network calls it.
	Name    string
	Door    string // Host and port of what it advertises.
	ID      uint64 // 0 until it is known.
	Removed bool   // It is no member any more.
	Paused  bool
	Conn    *grpc.ClientConn

	doorPort int
}

// Limits for what a cluster has to get done on a slow and shared machine.
const (
	callLimit  = 2 * time.Second
	askAgain   = 20 * time.Millisecond
	leaderWait = 30 * time.Second
)

// StartCluster starts a new cluster with one member per kind and waits until all of them serve. The arguments are
// given to each member.
func StartCluster(t testing.TB, kinds []Kind, args ...string) *Cluster {
	t.Helper()
	c := NewCluster(t, kinds, args...)
	for _, m := range c.Members {
		c.must(m.Start())
	}
	c.WaitReady(c.Members...)
	return c
}

// NewCluster is StartCluster without the start.
func NewCluster(t testing.TB, kinds []Kind, args ...string) *Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "cairn-cluster-")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{t: t, home: t, dir: dir, args: args}
	c.Net = NewNetwork(c.owner)
	t.Cleanup(c.close)
	var peers []string
	for _, kind := range kinds {
		peers = append(peers, c.place(kind).peer())
	}
	for _, m := range c.Members {
		m.Args = append(m.flags("new", peers), args...)
	}
	return c
}

// In makes a subtest the one that fails from now on.
func (c *Cluster) In(t testing.TB) { c.t = t }

func (c *Cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *Cluster) close() {
	t := c.home
	c.Net.Close()
	for _, m := range c.Members {
		died := m.Pid() != 0 && !m.Alive()
		m.Close()
		m.Conn.Close()
		ReleasePort(m.doorPort)
		switch {
		case t.Failed() && died:
			t.Logf("%s had ended by itself; %s", m.Name, m.LogTail(40))
		case t.Failed():
			t.Logf("%s: %s", m.Name, m.LogTail(EnvInt("CAIRN_LOG_LINES", 2)))
		}
	}
	if t.Failed() && os.Getenv("CAIRN_KEEP") != "" {
		t.Logf("kept %s", c.dir)
		return
	}
	os.RemoveAll(c.dir)
}

// place makes a member's place: folder, ports, door.
func (c *Cluster) place(kind Kind) *Member {
	c.t.Helper()
	binary := CairnBin
	if kind == Etcd {
		binary = EtcdBin
	}
	index := len(c.Members)
	name := fmt.Sprintf("m%d", index)
	s, err := New(Options{Kind: kind, Bin: binary(c.t), Dir: filepath.Join(c.dir, name+"-"+string(kind))})
	c.must(err)
	conn, err := s.Dial(grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: askAgain, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond},
		MinConnectTimeout: callLimit,
	}))
	c.must(err)
	port, err := FreePort()
	c.must(err)
	m := &Member{Server: s, Index: index, Name: name, Door: fmt.Sprintf("127.0.0.1:%d", port), Conn: conn, doorPort: port}
	c.must(c.Net.Open(index, m.Door, fmt.Sprintf("127.0.0.1:%d", s.PeerPort)))
	c.Net.mu.Lock()
	c.Members = append(c.Members, m)
	c.Net.mu.Unlock()
	return m
}

// PeerURL is what the member advertises to other members.
func (m *Member) PeerURL() string { return "http://" + m.Door }

func (m *Member) peer() string { return m.Name + "=" + m.PeerURL() }

// flags overrule those of Server, which are for a member of its own: the last of a repeated flag counts.
func (m *Member) flags(state string, peers []string) []string {
	return []string{
		"--name=" + m.Name,
		"--initial-advertise-peer-urls=" + m.PeerURL(),
		"--initial-cluster=" + strings.Join(peers, ","),
		"--initial-cluster-state=" + state,
	}
}

// owner tells which member's process has the socket at the other end of a door's connection.
func (c *Cluster) owner(dialer *net.TCPAddr, door net.Addr) int {
	inode := socketInode(dialer, door.(*net.TCPAddr))
	if inode == 0 {
		return ownerUnknown
	}
	for _, m := range c.snapshot() {
		if pid := m.Pid(); pid != 0 && ownsSocket(pid, inode) {
			return m.Index
		}
	}
	if ownsSocket(os.Getpid(), inode) {
		return ownerOutside
	}
	return ownerUnknown
}

// snapshot is for threads other than the test's: Members only ever grows.
func (c *Cluster) snapshot() []*Member {
	c.Net.mu.Lock()
	defer c.Net.mu.Unlock()
	return c.Members
}

// --- Looking. -----------------------------------------------------------------------------------------------------

// Current returns the members that are not removed.
func (c *Cluster) Current() (list []*Member) {
	for _, m := range c.Members {
		if !m.Removed {
			list = append(list, m)
		}
	}
	return list
}

// Running returns the members that are not removed, not stopped and not paused.
func (c *Cluster) Running() (list []*Member) {
	for _, m := range c.Current() {
		if !m.Paused && m.Alive() {
			list = append(list, m)
		}
	}
	return list
}

// Status asks a member for its state.
func (m *Member) Status(opts ...grpc.CallOption) (*pb.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	return pb.NewMaintenanceClient(m.Conn).Status(ctx, &pb.StatusRequest{}, opts...)
}

// HashKV asks a member for its hash at a revision; 0 is its newest.
func (m *Member) HashKV(revision int64) (*pb.HashKVResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*callLimit)
	defer cancel()
	return pb.NewMaintenanceClient(m.Conn).HashKV(ctx, &pb.HashKVRequest{Revision: revision})
}

// Client returns the raw service stubs of a member's Cluster service.
func (m *Member) Client() pb.ClusterClient { return pb.NewClusterClient(m.Conn) }

// KV returns the raw KV stub of a member.
func (m *Member) KV() pb.KVClient { return pb.NewKVClient(m.Conn) }

// Barrier makes a linearizable read through the member: after it the member has applied all that was acknowledged
// before the call.
func (m *Member) Barrier(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	_, err := m.KV().Range(ctx, &pb.RangeRequest{Key: []byte("no such key")}, grpc.WaitForReady(true))
	return err
}

// Leader returns the member that says that it leads and is believed by most of those asked; nil when there is none.
// The term in a member's answer is no help: in etcd it is that of the last applied entry, which a new leader's is not
// until a majority has it.
func (c *Cluster) Leader(asked ...*Member) (leader *Member) {
	named := map[uint64]int{}
	var claim []*Member
	for _, m := range asked {
		s, err := m.Status()
		if err != nil {
			continue
		}
		m.ID = s.Header.MemberId
		named[s.Leader]++
		if s.Leader == m.ID {
			claim = append(claim, m)
		}
	}
	for _, m := range claim {
		if leader == nil || named[m.ID] > named[leader.ID] {
			leader = m
		}
	}
	return leader
}

// WaitLeader waits until one of the running members leads and returns it.
func (c *Cluster) WaitLeader() *Member { c.t.Helper(); return c.WaitLeaderAmong(c.Running()...) }

// WaitLeaderAmong waits until one of these members leads.
func (c *Cluster) WaitLeaderAmong(members ...*Member) *Member {
	c.t.Helper()
	for deadline := time.Now().Add(leaderWait); time.Now().Before(deadline); time.Sleep(askAgain) {
		if m := c.Leader(members...); m != nil {
			return m
		}
	}
	c.t.Fatalf("no leader after %v among %s", leaderWait, names(members))
	return nil
}

func names(members []*Member) string {
	var list []string
	for _, m := range members {
		list = append(list, m.Name)
	}
	return strings.Join(list, " ")
}

// WaitReady waits until these members serve linearizable reads, and learns their ids.
func (c *Cluster) WaitReady(members ...*Member) {
	c.t.Helper()
	for _, m := range members {
		if err := m.WaitReady(ReadyLimit); err != nil {
			c.t.Fatalf("%s: %v", m.Name, err)
		}
		// The connection may still wait to be tried again, and etcd answers behind its disk.
		var s *pb.StatusResponse
		var err error
		for deadline := time.Now().Add(ReadyLimit); time.Now().Before(deadline); time.Sleep(askAgain) {
			if s, err = m.Status(grpc.WaitForReady(true)); err == nil || !m.Alive() {
				break
			}
		}
		c.must(err)
		m.ID = s.Header.MemberId
	}
}

// WaitConverged waits until the current members, all of which must run, have one leader and one revision. It holds
// for good only while nobody writes.
func (c *Cluster) WaitConverged() (revision int64) {
	c.t.Helper()
	var last error
	for deadline := time.Now().Add(ReadyLimit); time.Now().Before(deadline); time.Sleep(askAgain) {
		if revision, last = c.converged(); last == nil {
			return revision
		}
	}
	c.t.Fatalf("the members don't agree after %v: %v", ReadyLimit, last)
	return 0
}

func (c *Cluster) converged() (revision int64, err error) {
	var leader uint64
	for i, m := range c.Current() {
		if !m.Alive() {
			return 0, fmt.Errorf("%s does not run\n%s", m.Name, m.LogTail(20))
		}
		s, err := m.Status()
		if err != nil {
			return 0, fmt.Errorf("%s: %w", m.Name, err)
		}
		if s.Leader == 0 || len(s.Errors) > 0 {
			return 0, fmt.Errorf("%s: leader %x, errors %q", m.Name, s.Leader, s.Errors)
		}
		if i > 0 && (s.Leader != leader || s.Header.Revision != revision) {
			return 0, fmt.Errorf("%s: leader %x at revision %d; before it %x at %d", m.Name, s.Leader, s.Header.Revision,
				leader, revision)
		}
		leader, revision = s.Leader, s.Header.Revision
	}
	return revision, nil
}

// --- Processes. ---------------------------------------------------------------------------------------------------

// Pause stops a member's process where it stands (SIGSTOP).
func (c *Cluster) Pause(m *Member) {
	c.t.Helper()
	c.must(syscall.Kill(m.Pid(), syscall.SIGSTOP))
	m.Paused = true
}

// Resume lets a paused process run on.
func (c *Cluster) Resume(m *Member) {
	c.t.Helper()
	c.must(syscall.Kill(m.Pid(), syscall.SIGCONT))
	m.Paused = false
}

// Kill ends a member's process with kill -9.
func (c *Cluster) Kill(m *Member) {
	c.t.Helper()
	if err := m.Kill9(); err != nil {
		c.t.Fatalf("%s: %v", m.Name, err)
	}
}

// Restart starts a stopped member again on its data.
func (c *Cluster) Restart(m *Member) { c.t.Helper(); c.must(m.Start()) }

// CompareHashes asks all current members for HashKV at each revision and fails the test when they differ. Each must
// have reached the revisions.
func (c *Cluster) CompareHashes(revisions ...int64) {
	c.t.Helper()
	for _, revision := range revisions {
		var first *pb.HashKVResponse
		for _, m := range c.Current() {
			got, err := m.HashKV(revision)
			if err != nil {
				c.t.Fatalf("HashKV(%d) of %s: %v", revision, m.Name, err)
			}
			if first == nil {
				first = got
			}
			if got.Hash != first.Hash || got.CompactRevision != first.CompactRevision {
				c.t.Errorf("HashKV(%d): %s (%s) has %d, compacted at %d; %s (%s) has %d, compacted at %d", revision, m.Name,
					m.Kind, got.Hash, got.CompactRevision, c.Current()[0].Name, c.Current()[0].Kind, first.Hash,
					first.CompactRevision)
			}
		}
	}
}
