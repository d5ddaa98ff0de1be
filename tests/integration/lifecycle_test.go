// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestShutdownWithCallsInFlight stops a server in good order while clients write: each write is either acknowledged and
// then present after a restart, or refused with an error a client understands.
func TestShutdownWithCallsInFlight(t *testing.T) {
	s := harness.StartForTest(t, harness.Cairn)
	ctx := harness.Context(t, 2*time.Minute)
	const writers = 32
	var wg sync.WaitGroup
	var mu sync.Mutex
	acknowledged := map[string]string{}
	for w := range writers {
		conn, err := s.Dial()
		must(t, err)
		defer conn.Close()
		kv := pb.NewKVClient(conn)
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := 0; ; n++ {
				key, value := fmt.Sprintf("w%02d", w), fmt.Sprint(n)
				_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
				if err != nil {
					switch status.Code(err) {
					case codes.Unavailable, codes.Canceled:
					default:
						t.Errorf("writer %d: %v", w, err)
					}
					return
				}
				mu.Lock()
				acknowledged[key] = value
				mu.Unlock()
			}
		}()
	}
	time.Sleep(300 * time.Millisecond)
	eventually(t, "every client has written", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(acknowledged) == writers
	})
	start := time.Now()
	state, err := s.Terminate()
	must(t, err)
	t.Logf("stopped in %v: %v", time.Since(start), state)
	wg.Wait()
	must(t, s.StartReady())
	c := newClient(t, s)
	for key, value := range acknowledged {
		got, err := c.Get(ctx, key)
		must(t, err)
		var have, want int
		if len(got.Kvs) == 1 {
			fmt.Sscan(string(got.Kvs[0].Value), &have)
		}
		fmt.Sscan(value, &want)
		if len(got.Kvs) != 1 || have < want {
			t.Errorf("%s: acknowledged %d, found %v", key, want, got.Kvs)
		}
	}
}

// TestStopSignals compares how the processes end: a supervisor looks at it. SIGINT ends them also when they were started
// with it ignored, as a shell starts what a script has in the background.
func TestStopSignals(t *testing.T) {
	for _, x := range []struct {
		sig     syscall.Signal
		ignored bool
	}{{syscall.SIGTERM, false}, {syscall.SIGINT, false}, {syscall.SIGINT, true}} {
		sig := x.sig
		var ends [2]string
		for i, kind := range []harness.Kind{harness.Etcd, harness.Cairn} {
			s := harness.NewForTest(t, kind)
			if x.ignored {
				s.Bin = ignoring(t, sig, s.Bin)
			}
			must(t, s.StartReady())
			must(t, syscall.Kill(s.Pid(), sig))
			select {
			case <-s.Exited():
			case <-time.After(20 * time.Second):
				t.Fatalf("%s still runs 20 s after %v; %s", kind, sig, s.LogTail(20))
			}
			if tail := s.LogTail(20); strings.Contains(tail, "the stop did not end in time") {
				t.Errorf("%s had to end its stop by force; %s", kind, tail)
			}
			state, err := s.Terminate() // Only collects the state.
			must(t, err)
			ends[i] = state.String()
		}
		if ends[0] != ends[1] {
			t.Errorf("after %v etcd ends with %q, Cairn with %q", sig, ends[0], ends[1])
		}
	}
}

// ignoring makes a program that starts another with a signal ignored.
func ignoring(t *testing.T, sig syscall.Signal, bin string) string {
	t.Helper()
	script := filepath.Join(t.TempDir(), "ignoring")
	text := fmt.Sprintf("#!/bin/sh\ntrap '' %d\nexec '%s' \"$@\"\n", sig, bin)
	must(t, os.WriteFile(script, []byte(text), 0o755))
	return script
}

// A physical compaction may take minutes; a stop must not wait for it, and answers who does.
func TestStopDuringCompaction(t *testing.T) {
	const revisions = 3000
	s := harness.StartForTest(t, harness.Cairn, "--compaction-batch-limit=10", "--compaction-sleep-interval=100ms")
	c, ctx := newClient(t, s), harness.Context(t, time.Minute)
	var last int64
	for i := 0; i < revisions/100; i++ {
		ops := make([]clientv3.Op, 100)
		for k := range ops {
			ops[k] = clientv3.OpPut(fmt.Sprintf("k%d", k), strconv.Itoa(i))
		}
		r, err := c.Txn(ctx).Then(ops...).Commit()
		must(t, err)
		last = r.Header.Revision
	}
	compacted := make(chan error, 1)
	go func() {
		_, err := c.Compact(ctx, last, clientv3.WithCompactPhysical())
		compacted <- err
	}()
	for { // The compaction is under way once what is before it can't be read any more.
		if _, err := c.Get(ctx, "k0", clientv3.WithRev(last-1)); err != nil {
			break
		}
		must(t, ctx.Err())
	}
	must(t, syscall.Kill(s.Pid(), syscall.SIGTERM))
	select {
	case <-s.Exited():
	case <-time.After(8 * time.Second):
		t.Fatalf("the server still runs 8 s after SIGTERM; %s", s.LogTail(20))
	}
	if err := <-compacted; err == nil {
		t.Error("the compaction was said to be done, though the stop came before its end")
	}
}

func TestRestartKeepsData(t *testing.T) {
	s := harness.StartForTest(t, harness.Cairn)
	c, ctx := newClient(t, s), harness.Context(t, time.Minute)
	for i := 0; i < 500; i++ {
		_, err := c.Put(ctx, fmt.Sprintf("k%03d", i%200), fmt.Sprint(i))
		must(t, err)
	}
	before, err := c.Get(ctx, "\x00")
	must(t, err)
	hash, err := c.HashKV(ctx, s.Addr(), 0)
	must(t, err)
	status1, err := c.Status(ctx, s.Addr())
	must(t, err)
	for i := 0; i < 3; i++ {
		_, err := s.Terminate()
		must(t, err)
		must(t, s.StartReady())
		c := newClient(t, s)
		got, err := c.HashKV(ctx, s.Addr(), 0)
		must(t, err)
		if got.Hash != hash.Hash || got.Header.Revision != before.Header.Revision {
			t.Errorf("after restart %d: hash %d at %d, was %d at %d", i, got.Hash, got.Header.Revision, hash.Hash,
				before.Header.Revision)
		}
		st, err := c.Status(ctx, s.Addr())
		must(t, err)
		if st.Header.MemberId != status1.Header.MemberId || st.Header.ClusterId != status1.Header.ClusterId {
			t.Errorf("the member or cluster id changed")
		}
		if st.RaftTerm <= status1.RaftTerm {
			t.Errorf("the term did not rise: %d, was %d", st.RaftTerm, status1.RaftTerm)
		}
		status1 = st
	}
}

func TestDataFolderModeAndLock(t *testing.T) {
	s := harness.StartForTest(t, harness.Cairn)
	info, err := os.Stat(s.DataDir())
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the data folder has mode %o", info.Mode().Perm())
	}
	other, err := harness.New(harness.Options{Kind: harness.Cairn, Bin: s.Bin, Dir: t.TempDir()})
	must(t, err)
	args := other.Flags()
	for i, a := range args {
		if strings.HasPrefix(a, "--data-dir=") {
			args[i] = "--data-dir=" + s.DataDir()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	// etcd waits for the lock without limit and says so; a second server must in any case not get into the folder.
	cmd := exec.CommandContext(ctx, s.Bin, args...)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Errorf("a second server on the same folder ended without an error:\n%s", out)
	}
	if ctx.Err() == nil && !strings.Contains(strings.ToLower(string(out)), "lock") {
		t.Errorf("the second server doesn't say that the folder is locked:\n%.2000s", out)
	}
	c, rctx := newClient(t, s), harness.Context(t, time.Minute)
	_, err = c.Put(rctx, "k", "v")
	must(t, err)
}

// TestStopWithDeafClient: a connection whose client answers nothing any more, a stopped process, say, has no call on it
// and is no reason to wait.
func TestStopWithDeafClient(t *testing.T) {
	s := harness.StartForTest(t, harness.Cairn)
	deaf := dialH2(t, s)
	must(t, deaf.send(1, [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/etcdserverpb.KV/Range"},
		{":authority", "x"}, {"content-type", "application/grpc"}, {"te", "trailers"}}, grpcFrame([]byte{0x0a, 1, 'k'}), true))
	if got := deaf.outcome(1); got != " :status 200 grpc-status 0" {
		t.Fatalf("a read: %s", got)
	}
	start := time.Now()
	if _, err := s.Terminate(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 9*time.Second {
		t.Errorf("the stop took %v", took)
	}
}

// TestStopEndsStreams stops a server while clients begin streams all the time: each client hears that the server is gone,
// which clients mend by going elsewhere. A stream that was "cancelled" they would give up.
func TestStopEndsStreams(t *testing.T) {
	const conns, streams = 8, 16
	for round := range 5 {
		s, ctx := harness.StartForTest(t, harness.Cairn), harness.Context(t, time.Minute)
		var all, begun sync.WaitGroup
		churn := func(conn *grpc.ClientConn) {
			var err error
			for n := 0; err == nil; n++ {
				if err = beginWatch(ctx, conn); n == 0 {
					begun.Done()
				}
			}
			if status.Code(err) != codes.Unavailable {
				t.Errorf("round %d: a stream ended with %v", round, err)
			}
		}
		begun.Add(conns * streams)
		for range conns {
			conn, err := s.Dial()
			must(t, err)
			defer conn.Close()
			for range streams {
				all.Go(func() { churn(conn) })
			}
		}
		begun.Wait()
		_, err := s.Terminate()
		must(t, err)
		all.Wait()
	}
}

// beginWatch begins a stream and leaves it when its watcher is there.
func beginWatch(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return err
	}
	// What a Send that fails means is what Recv says.
	_ = w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}})
	_, err = w.Recv()
	return err
}
