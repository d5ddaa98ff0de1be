// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cairn/tests/harness"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A disk that is full, or that gives back something else than what was written. Full disks are small file systems in
// memory; without the right to mount one, those tests are skipped.

const (
	diskBytes = 160 << 20
	patience  = 20 * time.Second
)

// onSmallDisk makes a server, not started, whose data directory is a disk of diskBytes.
func onSmallDisk(t *testing.T, args ...string) *harness.Server {
	t.Helper()
	s := harness.NewForTest(t, harness.Cairn, args...)
	must(t, os.Mkdir(s.DataDir(), 0o700))
	if err := syscall.Mount("tmpfs", s.DataDir(), "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", diskBytes)); err != nil {
		t.Skipf("can't mount a file system: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.LogTail(20))
		}
		s.Close()
		if err := syscall.Unmount(s.DataDir(), syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return s
}

func filler(s *harness.Server) string { return filepath.Join(s.DataDir(), "of-somebody-else") }

// fillAtOnce is fill while the server can't look, so that it sees a full disk or none.
func fillAtOnce(t *testing.T, s *harness.Server) {
	t.Helper()
	must(t, syscall.Kill(s.Pid(), syscall.SIGSTOP))
	fill(t, s)
	must(t, syscall.Kill(s.Pid(), syscall.SIGCONT))
}

// fill leaves nothing free; what is there of the filler stays.
func fill(t *testing.T, s *harness.Server) {
	t.Helper()
	f, err := os.OpenFile(filler(s), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(t, err)
	defer f.Close()
	for _, size := range []int{1 << 20, 4 << 10} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}

// leave makes the filler so large that so much is free.
func leave(t *testing.T, s *harness.Server, bytes int64) {
	t.Helper()
	var disk syscall.Statfs_t
	must(t, syscall.Statfs(s.DataDir(), &disk))
	info, err := os.Stat(filler(s))
	must(t, err)
	if more := bytes - int64(disk.Bavail)*disk.Bsize; more > 0 {
		must(t, os.Truncate(filler(s), info.Size()-more))
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func ballast(s *harness.Server) string { return filepath.Join(s.DataDir(), "BALLAST") }

// settled waits until all the files are there that the server makes in the background.
func settled(t *testing.T, s *harness.Server) {
	t.Helper()
	eventually(t, "a ballast file, and nothing half made", func() bool {
		unfinished, err := filepath.Glob(filepath.Join(s.DataDir(), "member", "wal", "*.tmp"))
		must(t, err)
		return exists(ballast(s)) && len(unfinished) == 0
	})
}

// eventually waits for something that the server does by itself, soon.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !happened(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func logged(t *testing.T, s *harness.Server, text string) bool {
	t.Helper()
	data, err := os.ReadFile(s.LogPath())
	must(t, err)
	return strings.Contains(string(data), text)
}

func mustHave(t *testing.T, c *clientv3.Client, ctx context.Context, want map[string]string) {
	t.Helper()
	got, err := c.Get(ctx, "", clientv3.WithPrefix())
	must(t, err)
	if len(got.Kvs) != len(want) {
		t.Errorf("%d keys, want %d", len(got.Kvs), len(want))
	}
	for _, kv := range got.Kvs {
		if want[string(kv.Key)] != string(kv.Value) {
			t.Errorf("%s has another value", kv.Key)
		}
	}
}

// putSome returns what was acknowledged.
func putSome(t *testing.T, c *clientv3.Client, ctx context.Context, n, size int) map[string]string {
	t.Helper()
	random := rand.New(rand.NewSource(1))
	want := map[string]string{}
	for i := 0; i < n; i++ {
		value := make([]byte, size)
		random.Read(value)
		key := fmt.Sprintf("key-%06d", i)
		_, err := c.Put(ctx, key, string(value))
		must(t, err)
		want[key] = string(value)
	}
	return want
}

// restart starts a server that may have an alarm, which its health shows.
func restart(t *testing.T, s *harness.Server) *clientv3.Client {
	t.Helper()
	must(t, s.Start())
	c := newClient(t, s)
	eventually(t, "an answer", func() bool {
		if !s.Alive() {
			t.Fatal(s.LogTail(20))
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := c.Get(ctx, "")
		return err == nil || errors.Is(err, rpctypes.ErrEmptyKey)
	})
	return c
}

// alarmed waits for this member's NOSPACE alarm.
func alarmed(t *testing.T, c *clientv3.Client, ctx context.Context) {
	t.Helper()
	eventually(t, "the NOSPACE alarm", func() bool {
		alarms, err := c.AlarmList(ctx)
		must(t, err)
		return len(alarms.Alarms) == 1
	})
}

// disarmAndPut is what an operator does when there is room again.
func disarmAndPut(t *testing.T, c *clientv3.Client, ctx context.Context, key string) {
	t.Helper()
	eventually(t, "a put after alarm disarm", func() bool {
		_, err := c.AlarmDisarm(ctx, &clientv3.AlarmMember{})
		must(t, err)
		_, err = c.Put(ctx, key, "v")
		return err == nil
	})
}

// Somebody else fills the disk. Puts are refused in etcd's words; what makes room goes on, and so do reads.
func TestFullDisk(t *testing.T) {
	s := onSmallDisk(t)
	must(t, s.StartReady())
	c, ctx := newClient(t, s), harness.Context(t, 2*time.Minute)
	want := putSome(t, c, ctx, 2000, 4096)
	settled(t, s)
	fillAtOnce(t, s)
	eventually(t, "a refused put", func() bool {
		_, err := c.Put(ctx, "key-000000", want["key-000000"])
		if err != nil && !errors.Is(err, rpctypes.ErrNoSpace) {
			t.Fatal(err)
		}
		return err != nil
	})
	alarmed(t, c, ctx)
	mustHave(t, c, ctx, want)
	for key := range want {
		if key > "key-001" {
			_, err := c.Delete(ctx, key)
			must(t, err)
			delete(want, key)
		}
	}
	mustHave(t, c, ctx, want)
	head, err := c.Get(ctx, "key-000000")
	must(t, err)
	_, err = c.Compact(ctx, head.Header.Revision, clientv3.WithCompactPhysical())
	must(t, err)
	_, err = c.Defragment(ctx, s.Addr())
	must(t, err)
	if _, err := c.Put(ctx, "k", "v"); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("a put on the full disk: %v", err)
	}
	must(t, os.Remove(filler(s)))
	disarmAndPut(t, c, ctx, "key-000000")
	eventually(t, "the ballast again", func() bool { return exists(ballast(s)) })
}

// A member that is disarmed while its disk is still full says so again.
func TestFullDiskDisarmedTooEarly(t *testing.T) {
	s := onSmallDisk(t)
	must(t, s.StartReady())
	c, ctx := newClient(t, s), harness.Context(t, time.Minute)
	fillAtOnce(t, s)
	alarmed(t, c, ctx)
	_, err := c.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	must(t, err)
	alarmed(t, c, ctx)
	must(t, s.Kill9())
}

// The ballast makes room for a start, but only once; then the refusal says what to do. Nothing is lost.
func TestFullDiskStart(t *testing.T) {
	s := onSmallDisk(t)
	must(t, s.StartReady())
	c, ctx := newClient(t, s), harness.Context(t, 2*time.Minute)
	want := putSome(t, c, ctx, 3000, 4096)
	settled(t, s)
	must(t, syscall.Kill(s.Pid(), syscall.SIGSTOP)) // It must not see the disk fill.
	fill(t, s)
	must(t, s.Kill9())
	c = restart(t, s)
	if exists(ballast(s)) {
		t.Error("the ballast is still there")
	}
	mustHave(t, c, ctx, want)
	alarmed(t, c, ctx)
	must(t, syscall.Kill(s.Pid(), syscall.SIGSTOP))
	fill(t, s)
	must(t, s.Kill9())
	must(t, s.Start())
	select {
	case <-s.Exited():
	case <-time.After(patience):
		t.Fatal("it starts on a full disk")
	}
	state, err := s.Terminate() // Only collects the state.
	must(t, err)
	if state.ExitCode() != 1 || !logged(t, s, "the disk is full: make room and start again") {
		t.Errorf("it ended with %v; %s", state, s.LogTail(5))
	}
	must(t, os.Remove(filler(s)))
	c = restart(t, s)
	mustHave(t, c, ctx, want)
	disarmAndPut(t, c, ctx, "k")
}

// A Defragment for which there is no room does no harm, and works once there is some.
func TestFullDiskDefragment(t *testing.T) {
	s := onSmallDisk(t)
	must(t, s.StartReady())
	c, ctx := newClient(t, s), harness.Context(t, 2*time.Minute)
	want := putSome(t, c, ctx, 1500, 16<<10)
	_, err := c.Defragment(ctx, s.Addr()) // There is nothing to flush afterwards.
	must(t, err)
	settled(t, s)
	fillAtOnce(t, s)
	alarmed(t, c, ctx)
	_, err = c.Defragment(ctx, s.Addr()) // With the ballast it may succeed.
	if err != nil && !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Fatal(err)
	}
	fillAtOnce(t, s)
	for _, free := range []int64{0, 8 << 20, 22 << 20} { // Seen at once, twice, and in the middle.
		leave(t, s, free)
		if _, err := c.Defragment(ctx, s.Addr()); !errors.Is(err, rpctypes.ErrNoSpace) {
			t.Errorf("a Defragment with %d bytes free: %v", free, err)
		}
	}
	if !logged(t, s, "the disk is too full to compact the database") {
		t.Error("the compaction did not run out of room in the middle")
	}
	mustHave(t, c, ctx, want)
	must(t, os.Remove(filler(s)))
	eventually(t, "a Defragment", func() bool {
		_, err := c.Defragment(ctx, s.Addr())
		return err == nil
	})
	mustHave(t, c, ctx, want)
	disarmAndPut(t, c, ctx, "key-000000")
}

// Stopped in good order on a full disk, it ends as always; it starts again with all it had, before there is room.
func TestFullDiskStop(t *testing.T) {
	s := onSmallDisk(t)
	must(t, s.StartReady())
	c, ctx := newClient(t, s), harness.Context(t, time.Minute)
	want := putSome(t, c, ctx, 1000, 4096)
	settled(t, s)
	fillAtOnce(t, s)
	alarmed(t, c, ctx)
	_, err := c.Delete(ctx, "key-000000")
	must(t, err)
	delete(want, "key-000000")
	state, err := s.Terminate()
	must(t, err)
	if ws := state.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %v; %s", state, s.LogTail(5))
	}
	if !exists(ballast(s)) {
		t.Error("the stop needed the ballast")
	}
	if logged(t, s, "database operation failed") {
		t.Error("the stop tried what could not be done")
	}
	c = restart(t, s)
	mustHave(t, c, ctx, want)
	must(t, os.Remove(filler(s)))
	disarmAndPut(t, c, ctx, "k")
}

// The disk fills while clients write as fast as they can. The member may end, saying why, if it had no time to see it
// coming; after somebody made room, all that was acknowledged is there.
func TestDiskFillsUnderLoad(t *testing.T) {
	for round := 0; round < 3; round++ {
		t.Run(fmt.Sprint(round), func(t *testing.T) { fillUnderLoad(t, round) })
	}
}

func fillUnderLoad(t *testing.T, round int) {
	s := onSmallDisk(t)
	must(t, s.StartReady())
	ctx := harness.Context(t, 2*time.Minute)
	var wg sync.WaitGroup
	acknowledged := make([]map[string]string, 8)
	for w := range acknowledged {
		acknowledged[w] = map[string]string{}
		c := newClient(t, s)
		wg.Add(1)
		go func() {
			defer wg.Done()
			random := rand.New(rand.NewSource(int64(w)))
			for n := 0; ; n++ {
				key, value := fmt.Sprintf("w%d-%d", w, n), make([]byte, 16<<10)
				random.Read(value)
				call, cancel := context.WithTimeout(ctx, 5*time.Second)
				_, err := c.Put(call, key, string(value))
				cancel()
				if err != nil {
					return
				}
				acknowledged[w][key] = string(value)
			}
		}()
	}
	// The member's own writes fill the disk in the first round, somebody else does in the others.
	if round > 0 {
		time.Sleep(time.Duration(round) * 150 * time.Millisecond)
		fill(t, s)
	}
	wg.Wait()
	if s.Alive() {
		t.Log("it lives")
	} else if t.Log(s.LogTail(1)); !logged(t, s, "make room on the disk and start again") && !logged(t, s, "rocksdb::") {
		t.Errorf("it does not say why; %s", s.LogTail(5))
	}
	os.Remove(filler(s))
	s.Kill9() // An error says that it had ended by itself.
	c := restart(t, s)
	n := 0
	for _, some := range acknowledged {
		for key, value := range some {
			got, err := c.Get(ctx, key)
			must(t, err)
			if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value {
				t.Errorf("%s was acknowledged and is not there", key)
			}
			n++
		}
	}
	t.Logf("%d writes", n)
}

// ---- damage ----

// damaged copies a data directory, with one bit of one file turned over; where, random says: any place, or near the
// beginning, which is what a start reads first.
func damaged(t *testing.T, from, to, pattern string, near bool, random *rand.Rand) string {
	t.Helper()
	must(t, os.RemoveAll(to))
	must(t, os.CopyFS(to, os.DirFS(from)))
	must(t, os.Chmod(to, 0o700))
	files, err := filepath.Glob(filepath.Join(to, "member", "db", pattern))
	must(t, err)
	if len(files) == 0 {
		t.Fatalf("no %s", pattern)
	}
	name := files[random.Intn(len(files))]
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	must(t, err)
	var b [1]byte
	at := random.Int63n(size)
	if near {
		at %= 1000
	}
	_, err = f.ReadAt(b[:], at)
	must(t, err)
	b[0] ^= 1 << random.Intn(8)
	_, err = f.WriteAt(b[:], at)
	must(t, err)
	return fmt.Sprintf("%s at %d", filepath.Base(name), at)
}

// readAll reads key after key until the server is gone; whatever it answers must be right.
func readAll(t *testing.T, s *harness.Server, want map[string]string) error {
	t.Helper()
	c := newClient(t, s)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	exited := s.Exited()
	go func() { // The client would try again for as long as it may.
		select {
		case <-exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	for key, value := range want {
		got, err := c.Get(ctx, key)
		if err != nil {
			return err
		}
		if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value {
			t.Fatalf("%s: a wrong answer: %v", key, got)
		}
	}
	got, err := c.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err == nil && got.Count != int64(len(want)) {
		t.Fatalf("a wrong count: %d", got.Count)
	}
	return err
}

// whenDamaged starts a server on damaged files again and again: it refuses, or ends when it meets the damage, and in
// both cases names the file and says what to do; or it never meets it, and all is right.
func whenDamaged(t *testing.T, pattern, name string, rounds int) {
	s := harness.StartForTest(t, harness.Cairn)
	c, ctx := newClient(t, s), harness.Context(t, 3*time.Minute)
	want := putSome(t, c, ctx, 2000, 300)
	_, err := s.Terminate()
	must(t, err)
	whole := s.DataDir() + ".whole"
	must(t, os.Rename(s.DataDir(), whole))
	random := rand.New(rand.NewSource(2))
	found := 0
	for i := 0; i < rounds; i++ {
		where := damaged(t, whole, s.DataDir(), pattern, i%2 == 0, random)
		must(t, os.Truncate(s.LogPath(), 0))
		err := s.StartReady()
		if err == nil {
			err = readAll(t, s, want)
		}
		if err == nil {
			_, err := s.Terminate()
			must(t, err)
			continue
		}
		found++
		select {
		case <-s.Exited():
		case <-time.After(patience):
			t.Fatalf("%s: it answers %v and goes on", where, err)
		}
		s.Terminate()
		if !logged(t, s, name) || !logged(t, s, "restore a snapshot") {
			t.Errorf("%s: it does not say what to do; %s", where, s.LogTail(5))
		}
	}
	t.Logf("met the damage in %d of %d rounds", found, rounds)
	if found == 0 {
		t.Error("no damage was met: the test tests nothing")
	}
}

func TestDamagedTable(t *testing.T) { whenDamaged(t, "*.sst", ".sst", 16) }

func TestDamagedManifest(t *testing.T) { whenDamaged(t, "MANIFEST-*", "MANIFEST-", 16) }
