// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cairn/tests/harness"
)

// follower is an etcdctl command that goes on until it is interrupted.
type follower struct {
	t    *testing.T
	args string
	cmd  *exec.Cmd
	done chan error

	mu  sync.Mutex
	out bytes.Buffer
}

// Write makes a follower what its command's output goes to.
func (f *follower) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out.Write(b)
}

func (f *follower) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out.String()
}

func follow(t *testing.T, s *harness.Server, stdin, args string) *follower {
	t.Helper()
	f := &follower{t: t, args: args, done: make(chan error, 1)}
	f.cmd = exec.Command(harness.EtcdctlBin(t), append([]string{"--endpoints=" + s.Addr()}, strings.Fields(args)...)...)
	f.cmd.Stdout = f
	if stdin != "" { // It stays open, so that the command waits for more.
		pipe, err := f.cmd.StdinPipe()
		must(t, err)
		_, err = pipe.Write([]byte(stdin))
		must(t, err)
	}
	must(t, harness.Launch(f.cmd))
	go func() { f.done <- f.cmd.Wait() }()
	t.Cleanup(func() { f.cmd.Process.Kill() })
	return f
}

// shows waits until a text has been printed.
func (f *follower) shows(text string) { f.t.Helper(); f.showsTimes(text, 1) }

// showsTimes waits until a text has been printed so often.
func (f *follower) showsTimes(text string, times int) {
	f.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); strings.Count(f.text(), text) < times; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("etcdctl %s does not print %q %d times, but:\n%s", f.args, text, times, f.text())
		}
	}
}

// end interrupts the command and returns all it printed, and its exit code.
func (f *follower) end() string {
	f.t.Helper()
	f.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-f.done:
	case <-time.After(30 * time.Second):
		f.t.Fatalf("etcdctl %s does not end", f.args)
	}
	return fmt.Sprintf("%sexit %d\n", f.text(), f.cmd.ProcessState.ExitCode())
}

// do runs a command to its end; it has to succeed.
func do(t *testing.T, s *harness.Server, stdin, args string) string {
	t.Helper()
	out, code := ctl(t, s, stdin, strings.Fields(args)...)
	if code != 0 {
		t.Fatalf("etcdctl %s: exit %d, %s", args, code, out)
	}
	return out
}

// bothPrint runs the same scenes against etcd and Cairn and compares what is printed.
func bothPrint(t *testing.T, scene func(t *testing.T, s *harness.Server) []string) {
	t.Helper()
	cairn, etcd := harness.StartForTest(t, harness.Cairn), harness.StartForTest(t, harness.Etcd)
	want, got := scene(t, etcd), scene(t, cairn)
	for i := range want {
		if a, b := lineByLine(want[i]), lineByLine(got[i]); a != b {
			t.Errorf("output %d\n etcd:\n%s\n Cairn:\n%s", i, want[i], got[i])
		}
	}
}

// number is a lease's id or a revision of an output where it differs by itself.
var number = regexp.MustCompile(`[0-9a-f]{10,}`)

func lineByLine(out string) string {
	lines := strings.Split(out, "\n")
	for i, line := range lines {
		lines[i] = number.ReplaceAllString(comparable(line), "HEX")
	}
	return strings.Join(lines, "\n")
}

// finished waits for a command that ends by itself.
func (f *follower) finished() string {
	f.t.Helper()
	select {
	case <-f.done:
	case <-time.After(30 * time.Second):
		f.t.Fatalf("etcdctl %s does not end", f.args)
	}
	return fmt.Sprintf("%sexit %d\n", f.text(), f.cmd.ProcessState.ExitCode())
}

// begun writes until the follower prints it, since it prints nothing when it has begun.
func (f *follower) begun(s *harness.Server, key string) {
	f.t.Helper()
	for range 200 {
		do(f.t, s, "", "put "+key+" ready")
		for range 20 {
			if strings.Contains(f.text(), "ready") {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	f.t.Fatalf("etcdctl %s prints nothing", f.args)
}

// eventsOnly takes out what depends on how revisions are joined in responses: headers, and where one begins.
func eventsOnly(args, text string) string {
	switch {
	case strings.Contains(args, "fields"):
		return regexp.MustCompile(`"(ClusterID|MemberID|Revision|RaftTerm)" : \d+\n`).ReplaceAllString(text, "")
	case !strings.Contains(args, "json"):
		return text
	}
	var all []any
	for _, line := range strings.Split(text, "\n") {
		var response struct{ Events []any }
		if json.Unmarshal([]byte(line), &response) == nil {
			all = append(all, response.Events...)
		}
	}
	out, err := json.Marshal(all)
	return fmt.Sprintf("%d events %s %v", len(all), out, err)
}

// TestEtcdctlWatch follows keys in every way that etcdctl has.
func TestEtcdctlWatch(t *testing.T) {
	bothPrint(t, func(t *testing.T, s *harness.Server) (out []string) {
		for _, args := range []string{"put k before", "put k/1 before", "put k one", "put k/2 two", "del k/1", "put l x"} {
			do(t, s, "", args)
		}
		do(t, s, "\nput k three\nput k/3 three\ndel k/2\n\n\n", "txn")
		var list []*follower
		for _, args := range []string{
			"watch k --rev=2", "watch k --rev=2 --prefix", "watch k --rev=1 --prev-kv", "watch k --rev=4 --prefix --prev-kv",
			"watch k --rev=2 -w json", "watch k --rev=2 --prev-kv -w fields", "watch k l --rev=1", "watch a z --rev=9 --prev-kv",
			"watch k --rev=3 --progress-notify", "watch k --rev=2 --hex", "watch k --rev=2 -- echo told",
		} {
			list = append(list, follow(t, s, "", args))
		}
		future := follow(t, s, "", "watch k --prefix --rev=11")
		interactive := follow(t, s, "watch k --rev=2\nwatch z --rev=1 --prev-kv\nnonsense\nwatch k l --rev=4\nwatch\n", "watch -i")
		do(t, s, "", "del k --prefix")
		do(t, s, "", "put k unseen")
		do(t, s, "", "put k the-last-one")
		for _, f := range append(list, future, interactive) {
			switch {
			case strings.Contains(f.args, "json"):
				f.shows("dGhlLWxhc3Qtb25l")
			case strings.Contains(f.args, "fields"):
				f.shows("\"Value\" : \"the-last-one\"\n\"Lease\" : 0\n") // Two writes, between which it might be interrupted.
			case strings.Contains(f.args, "hex"):
				f.shows(`\x74\x68\x65\x2d\x6c\x61\x73\x74`)
			case strings.Contains(f.args, "echo"):
				f.showsTimes("told\n", 6)
			case f == interactive:
				f.showsTimes("the-last-one", 2)
			default:
				f.shows("the-last-one")
			}
			text := eventsOnly(f.args, f.end())
			if f == interactive || strings.Contains(f.args, "echo") { // What stands beside what is by chance.
				lines := strings.Split(text, "\n")
				slices.Sort(lines)
				text = strings.Join(lines, "\n")
			}
			out = append(out, f.args+"\n"+text)
		}
		plain := follow(t, s, "", "watch plain")
		plain.begun(s, "plain")
		do(t, s, "", "put plain done")
		plain.shows("done")
		block := "PUT\nplain\nready\n"
		out = append(out, strings.ReplaceAll(plain.end(), block, ""))
		do(t, s, "", "compaction 5")
		out = append(out, follow(t, s, "", "watch k --rev=2").finished(), follow(t, s, "", "watch b a --rev=6").finished())
		return out
	})
}

// TestEtcdctlLease keeps leases alive and lets them end.
func TestEtcdctlLease(t *testing.T) {
	bothPrint(t, func(t *testing.T, s *harness.Server) (out []string) {
		id := strings.Fields(do(t, s, "", "lease grant 12"))[1]
		short := strings.Fields(do(t, s, "", "lease grant 6"))[1]
		do(t, s, "", "put kept v --lease="+id)
		do(t, s, "", "put left v --lease="+short)
		keep := follow(t, s, "", "lease keep-alive "+id)
		keep.shows("keepalived with TTL(12)")
		out = append(out, do(t, s, "", "lease keep-alive --once "+short), do(t, s, "", "lease timetolive "+short+" --keys"))
		for deadline := time.Now().Add(30 * time.Second); do(t, s, "", "get left") != ""; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("a lease of 6 s does not end")
			}
		}
		keep.showsTimes("keepalived with TTL(12)", 3)
		out = append(out, do(t, s, "", "get kept"))
		text, code := ctl(t, s, "", "lease", "keep-alive", "--once", short)
		out = append(out, fmt.Sprint(text, code))
		do(t, s, "", "lease revoke "+id)
		keep.shows("expired or revoked")
		first, _, _ := strings.Cut(keep.finished(), "\n")
		return append(out, first, do(t, s, "", "get kept"))
	})
}

// TestEtcdctlLockAndElect takes a lock and leads, waits for both, and hands both on.
func TestEtcdctlLockAndElect(t *testing.T) {
	bothPrint(t, func(t *testing.T, s *harness.Server) (out []string) {
		out = append(out, do(t, s, "", "lock short -- echo under"), do(t, s, "", "lock short --ttl=5 -- echo again"))
		holder := follow(t, s, "", "lock l")
		holder.shows("l/")
		waiting := follow(t, s, "", "lock l -- echo mine")
		waitKeys(t, s, "l/", 2)
		if text := waiting.text(); text != "" {
			t.Errorf("a lock that another has was got: %s", text)
		}
		out = append(out, holder.end(), waiting.finished(), do(t, s, "", "get l/ --prefix --keys-only"))

		leader := follow(t, s, "", "elect e first")
		leader.shows("first")
		candidate := follow(t, s, "", "elect e second")
		waitKeys(t, s, "e/", 2)
		listener := follow(t, s, "", "elect -l e")
		listener.shows("first")
		out = append(out, leader.end())
		candidate.shows("second")
		listener.shows("second")
		return append(out, candidate.end(), listener.end(), do(t, s, "", "get e/ --prefix --keys-only"))
	})
}

// waitKeys waits until so many keys begin with a prefix.
func waitKeys(t *testing.T, s *harness.Server, prefix string, count int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if strings.Count(do(t, s, "", "get "+prefix+" --prefix --keys-only"), prefix) >= count {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("there are no %d keys of %s", count, prefix)
		}
	}
}
