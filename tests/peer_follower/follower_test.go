// SPDX-License-Identifier: Apache-2.0

// Package peer_follower has the transport of api/peer.c, with the simplest of followers behind it, take part in clusters of etcd.
package peer_follower

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"cairn/tests/harness"
)

const (
	patience = 30 * time.Second
	askAgain = 20 * time.Millisecond
)

// follower is tests/peer_follower/tool/peer_follower.c as a member.
type follower struct {
	t   *testing.T
	id  uint64
	url string
	in  io.WriteCloser
	out *bufio.Reader
}

// state is what the follower says about itself.
type state struct {
	term, commit, last, heartbeats, appends, rejected, snapshots, snapshotBytes uint64
	active                                                                      int
	removed                                                                     int
}

func binary(t *testing.T) string {
	path := os.Getenv("PEER_FOLLOWER")
	if path == "" {
		path = "../../build/release/tests/peer_follower/tool/peer_follower"
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no tool: build the project, or name it in PEER_FOLLOWER: %v", err)
	}
	return path
}

// join adds the follower to the cluster as a learner and starts it.
func join(t *testing.T, c *harness.Cluster) *follower {
	t.Helper()
	path := binary(t)
	port, err := harness.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	f := &follower{t: t, url: fmt.Sprintf("http://127.0.0.1:%d", port)}
	var cluster uint64
	eventually(t, "add the follower", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		r, err := c.Members[0].Client().MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{f.url}, IsLearner: true})
		if err == nil {
			f.id, cluster = r.Member.ID, r.Header.ClusterId
		}
		return err
	})
	args := []string{fmt.Sprintf("%x", f.id), fmt.Sprintf("%x", cluster), f.url, t.TempDir()}
	for _, m := range c.Members { // Past their doors, which know no follower.
		args = append(args, fmt.Sprintf("%x=http://127.0.0.1:%d", m.ID, m.PeerPort))
	}
	cmd := exec.Command(path, args...)
	cmd.Stderr = testLog{t}
	if f.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.out = bufio.NewReader(out)
	t.Cleanup(func() {
		f.in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the follower ended with %v", err)
		}
	})
	return f
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Logf("follower: %s", b)
	return len(b), nil
}

func (f *follower) state() (s state) {
	f.t.Helper()
	if _, err := io.WriteString(f.in, "\n"); err != nil {
		f.t.Fatalf("the follower ended: %v", err)
	}
	line, err := f.out.ReadString('\n')
	if err != nil {
		f.t.Fatalf("the follower ended: %v", err)
	}
	if _, err := fmt.Sscan(line, &s.term, &s.commit, &s.last, &s.heartbeats, &s.appends, &s.rejected, &s.snapshots,
		&s.snapshotBytes, &s.active, &s.removed); err != nil {
		f.t.Fatalf("%q: %v", line, err)
	}
	return s
}

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(askAgain) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// caughtUp: the follower has all that the member has committed, and hears from and is heard by everybody who runs.
func (f *follower) caughtUp(m *harness.Member, peers int) error {
	status, err := m.Status()
	if err != nil {
		return err
	}
	s := f.state()
	if s.last < status.RaftIndex || s.commit < status.RaftIndex || s.active != peers || s.heartbeats == 0 {
		return fmt.Errorf("%+v; the member's index is %d", s, status.RaftIndex)
	}
	return nil
}

// activeAt: that member of etcd counts the follower as active.
func (f *follower) activeAt(m *harness.Member) error {
	r, err := http.Get(m.URL() + "/metrics")
	if err != nil {
		return err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	want := fmt.Sprintf("etcd_network_active_peers{Local=\"%x\",Remote=\"%x\"} 1\n", m.ID, f.id)
	if !strings.Contains(string(text), want) {
		return fmt.Errorf("not in the metrics of %s: %s", m.Name, want)
	}
	return nil
}

func put(t *testing.T, m *harness.Member, n, bytes int) {
	t.Helper()
	value := make([]byte, bytes)
	for i := range n {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, err := m.KV().Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "key-%d", i), Value: value})
		cancel()
		if err != nil {
			t.Fatalf("put %d: %v", i, err)
		}
	}
}

func change(t *testing.T, what string, f func(context.Context) error) {
	t.Helper()
	eventually(t, what, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return f(ctx)
	})
}

// TestFollower: etcd sends to it over both streams, finds it in sync, and makes a quorum with it when another member is gone.
func TestFollower(t *testing.T) {
	// A quorum that needs the follower is lost when it stands still for an election timeout.
	c := harness.StartCluster(t, []harness.Kind{harness.Etcd, harness.Etcd}, "--election-timeout=3000")
	a, b := c.Members[0], c.Members[1]
	put(t, a, 20, 100)
	f := join(t, c)
	eventually(t, "the learner catches up", func() error { return f.caughtUp(a, 2) })
	change(t, "promote", func(ctx context.Context) error {
		_, err := a.Client().MemberPromote(ctx, &pb.MemberPromoteRequest{ID: f.id})
		return err
	})
	for _, m := range []*harness.Member{a, b} {
		eventually(t, "active", func() error { return f.activeAt(m) })
	}
	put(t, a, 200, 1000)
	eventually(t, "the voter keeps up", func() error { return f.caughtUp(a, 2) })

	// With every member active for 5 s etcd lets another one be added; with one that flaps it does not.
	change(t, "add another", func(ctx context.Context) error {
		r, err := a.Client().MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:1"}})
		if err != nil {
			return err
		}
		_, err = a.Client().MemberRemove(ctx, &pb.MemberRemoveRequest{ID: r.Member.ID})
		return err
	})

	c.MoveLeader(a)
	if err := b.Kill9(); err != nil {
		t.Fatal(err)
	}
	put(t, a, 100, 1000)
	eventually(t, "the quorum of two", func() error { return f.caughtUp(a, 1) })
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	c.WaitReady(b)
	eventually(t, "three again", func() error { return f.caughtUp(a, 2) })
	t.Logf("%+v", f.state())

	change(t, "remove", func(ctx context.Context) error {
		_, err := a.Client().MemberRemove(ctx, &pb.MemberRemoveRequest{ID: f.id})
		return err
	})
	eventually(t, "told that it was removed", func() error {
		if s := f.state(); s.removed == 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

// TestSnapshot: a cluster with a log behind it feeds a new member by a snapshot.
func TestSnapshot(t *testing.T) {
	c := harness.StartCluster(t, []harness.Kind{harness.Etcd})
	a := c.Members[0]
	put(t, a, 600, 10000)
	f := join(t, c)
	eventually(t, "the learner catches up", func() error { return f.caughtUp(a, 1) })
	s := f.state()
	if s.snapshots == 0 || s.snapshotBytes < 6000000 {
		t.Fatalf("no snapshot of that size: %+v", s)
	}
	put(t, a, 100, 100)
	eventually(t, "the learner keeps up", func() error { return f.caughtUp(a, 1) })
	change(t, "promote", func(ctx context.Context) error {
		_, err := a.Client().MemberPromote(ctx, &pb.MemberPromoteRequest{ID: f.id})
		return err
	})
	t.Logf("%+v", f.state())
}
