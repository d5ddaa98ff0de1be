// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cairn/tests/harness"

	"go.etcd.io/etcd/client/v3/concurrency"
)

// Locks and elections that clients make themselves, out of leases, transactions and watches.

// ctlProcess is an etcdctl that stays until it is interrupted.
type ctlProcess struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string
}

func startCtl(t *testing.T, s *harness.Server, args ...string) *ctlProcess {
	t.Helper()
	p := &ctlProcess{t: t, lines: make(chan string, 100)}
	p.cmd = exec.Command(harness.EtcdctlBin(t), append([]string{"--endpoints=" + s.Addr()}, args...)...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	must(t, err)
	must(t, p.cmd.Start())
	t.Cleanup(func() { p.cmd.Process.Kill() })
	go func() {
		defer close(p.lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			p.lines <- scanner.Text()
		}
	}()
	return p
}

var leaseHex = regexp.MustCompile(`/[0-9a-f]{12,16}$`)

func (p *ctlProcess) line() string {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			return "(end)"
		}
		return leaseHex.ReplaceAllString(line, "/LEASE")
	case <-time.After(20 * time.Second):
		p.t.Fatalf("%q prints nothing", p.cmd.Args)
		return ""
	}
}

// interrupt ends it and returns its exit code.
func (p *ctlProcess) interrupt() int {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(os.Interrupt))
	for range p.lines {
	}
	p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

// sameOnBoth tells the same story on etcd and on Cairn; what is said must be equal.
func sameOnBoth(t *testing.T, story func(s *harness.Server, say func(format string, args ...any))) {
	t.Helper()
	etcd, cairn := bothServers(t)
	var said [2]string
	for i, s := range []*harness.Server{etcd, cairn} {
		var lines []string
		story(s, func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) })
		said[i] = strings.Join(lines, "\n")
	}
	if said[0] != said[1] {
		t.Errorf("etcd:\n%s\ncairn:\n%s", said[0], said[1])
	}
	t.Log(said[0])
}

// TestEtcdctlLock runs the same commands on both servers; prints and exit codes must be the same.
func TestEtcdctlLock(t *testing.T) {
	name := unique(t, "n")
	sameOnBoth(t, func(s *harness.Server, say func(format string, args ...any)) {
		for _, args := range [][]string{
			{"lock", name, "echo", "inside"}, {"lock", name, "false"}, {"lock", name, "--", "sh", "-c", "exit 3"},
			{"lock", name, "no-such-command"}, {"lock"}, {"lock", name, "--ttl", "5", "true"},
		} {
			out, code := ctl(t, s, "", args...)
			say("%q: %d %q", args, code, comparable(out))
		}
		first := startCtl(t, s, "lock", name)
		say("first %s", first.line())
		second := startCtl(t, s, "lock", name)
		w := newLockWorld(t, s)
		w.waitKeys(name, 2)
		say("first ends with %d", first.interrupt())
		say("second %s", second.line())
		say("second ends with %d", second.interrupt())
		w.waitKeys(name, 0)
	})
}

func TestEtcdctlElect(t *testing.T) {
	name := unique(t, "n")
	sameOnBoth(t, func(s *harness.Server, say func(format string, args ...any)) {
		first := startCtl(t, s, "elect", name, "one")
		say("first %s %s", first.line(), first.line())
		listener := startCtl(t, s, "elect", "-l", name)
		say("listener %s %s", listener.line(), listener.line())
		second := startCtl(t, s, "elect", name, "two")
		w := newLockWorld(t, s)
		w.waitKeys(name, 2)
		say("first ends with %d", first.interrupt())
		say("second %s %s", second.line(), second.line())
		say("listener %s %s", listener.line(), listener.line())
		say("listener ends with %d", listener.interrupt())
		say("second ends with %d", second.interrupt())
		w.waitKeys(name, 0)
	})
}

// TestConcurrencyMutex lets sessions of clientv3's own recipes, and the server's, take turns at one lock.
func TestConcurrencyMutex(t *testing.T) {
	const sessions, turns = 12, 5
	etcd, cairn := bothServers(t)
	for _, s := range []*harness.Server{etcd, cairn} {
		name := unique(t, "%d", s.ClientPort)
		c, ctx := newClient(t, s), harness.Context(t, time.Minute)
		var inside, count int
		var wg sync.WaitGroup
		for range sessions {
			wg.Add(1)
			go func() {
				defer wg.Done()
				session, err := concurrency.NewSession(c, concurrency.WithTTL(30))
				if err != nil {
					t.Error(err)
					return
				}
				defer session.Close()
				m := concurrency.NewMutex(session, name)
				for range turns {
					if err := m.Lock(ctx); err != nil {
						t.Error(err)
						return
					}
					// Not locked but by the mutex: the race detector would see a lock that two hold.
					if inside++; inside != 1 {
						t.Errorf("%d hold the lock", inside)
					}
					count++
					inside--
					if err := m.Unlock(ctx); err != nil {
						t.Error(err)
						return
					}
				}
			}()
		}
		wg.Wait()
		if count != sessions*turns {
			t.Errorf("%s: %d turns", s.Kind, count)
		}
	}
}

func TestConcurrencyElection(t *testing.T) {
	const candidates = 8
	etcd, cairn := bothServers(t)
	for _, s := range []*harness.Server{etcd, cairn} {
		name := unique(t, "%d", s.ClientPort)
		c, ctx := newClient(t, s), harness.Context(t, time.Minute)
		session, err := concurrency.NewSession(c)
		must(t, err)
		observing, stop := context.WithCancel(ctx)
		observed := concurrency.NewElection(session, name).Observe(observing)
		var wg sync.WaitGroup
		for i := range candidates {
			wg.Add(1)
			go func() {
				defer wg.Done()
				own, err := concurrency.NewSession(c)
				if err != nil {
					t.Error(err)
					return
				}
				defer own.Close()
				e := concurrency.NewElection(own, name)
				if err := e.Campaign(ctx, strconv.Itoa(i)); err != nil {
					t.Error(err)
					return
				}
				if leader, err := e.Leader(ctx); err != nil || string(leader.Kvs[0].Value) != strconv.Itoa(i) {
					t.Errorf("%d leads, but is not the leader: %v %v", i, leader, err)
				}
				if err := e.Proclaim(ctx, fmt.Sprint(i, " proclaimed")); err != nil {
					t.Error(err)
				}
				if err := e.Resign(ctx); err != nil {
					t.Error(err)
				}
			}()
		}
		wg.Wait()
		final, err := concurrency.NewSession(c)
		must(t, err)
		must(t, concurrency.NewElection(final, name).Campaign(ctx, "last"))
		// Some leaders were gone before the observer looked, but this one stays; what it saw is in order.
		var revision int64
		n := 0
		for value := ""; value != "last"; n++ {
			r, open := <-observed
			if !open {
				t.Fatalf("%s: the observer ended after %d, at %q", s.Kind, n, value)
			}
			kv := r.Kvs[0]
			if kv.ModRevision <= revision {
				t.Errorf("%s: observed revision %d after %d", s.Kind, kv.ModRevision, revision)
			}
			revision, value = kv.ModRevision, string(kv.Value)
		}
		t.Logf("%s: observed %d times", s.Kind, n)
		must(t, final.Close())
		stop()
		must(t, session.Close())
	}
}

// TestConcurrencySTM moves money between accounts; no sum may change.
func TestConcurrencySTM(t *testing.T) {
	const accounts, workers, moves, start = 5, 8, 20, 100
	etcd, cairn := bothServers(t)
	for _, s := range []*harness.Server{etcd, cairn} {
		name := unique(t, "%d", s.ClientPort)
		account := func(i int) string { return fmt.Sprintf("%s/%d", name, i%accounts) }
		c, ctx := newClient(t, s), harness.Context(t, time.Minute)
		for i := range accounts {
			_, err := c.Put(ctx, account(i), strconv.Itoa(start))
			must(t, err)
		}
		var wg sync.WaitGroup
		for w := range workers {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for m := range moves {
					_, err := concurrency.NewSTM(c, func(stm concurrency.STM) error {
						from, to := account(w+m), account(w+2*m+1)
						if from == to {
							return nil
						}
						a, _ := strconv.Atoi(stm.Get(from))
						b, _ := strconv.Atoi(stm.Get(to))
						stm.Put(from, strconv.Itoa(a-w))
						stm.Put(to, strconv.Itoa(b+w))
						return nil
					}, concurrency.WithAbortContext(ctx))
					if err != nil {
						t.Error(err)
					}
				}
			}()
		}
		wg.Wait()
		sum := 0
		for i := range accounts {
			r, err := c.Get(ctx, account(i))
			must(t, err)
			n, err := strconv.Atoi(string(r.Kvs[0].Value))
			must(t, err)
			sum += n
		}
		if sum != accounts*start {
			t.Errorf("%s: the sum is %d", s.Kind, sum)
		}
	}
}
