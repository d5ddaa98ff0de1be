// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"cairn/tests/harness"
)

// tool is a client program that works beside a test.
type tool struct {
	cmd         *exec.Cmd
	done        chan struct{} // Closed when it has ended.
	out, errors spoken
}

// spoken is what a tool has printed so far.
type spoken struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *spoken) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *spoken) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// lines are the whole ones.
func (s *spoken) lines() []string {
	lines := strings.Split(s.String(), "\n")
	return lines[:len(lines)-1]
}

// launch starts a tool, which ends with the test. One that can't be started has ended with exit code -1.
func launch(t *testing.T, cmd *exec.Cmd) *tool {
	t.Helper()
	x := &tool{cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &x.out, &x.errors
	if err := harness.Launch(cmd); err != nil {
		t.Error(err)
		close(x.done)
		return x
	}
	go func() {
		cmd.Wait()
		close(x.done)
	}()
	t.Cleanup(x.kill)
	return x
}

func (x *tool) kill() {
	if x.cmd.Process != nil {
		x.cmd.Process.Kill()
	}
	<-x.done
}

func (x *tool) ended() bool {
	select {
	case <-x.done:
		return true
	default:
		return false
	}
}

// exit waits for the end.
func (x *tool) exit() int {
	<-x.done
	return x.cmd.ProcessState.ExitCode()
}

// excuses are what etcdctl says when the leader changes under a call, or the member that it asked has died. A lease or
// a lock that was lost is none.
var excuses = []string{
	"etcdserver: no leader", "etcdserver: leader changed", "etcdserver: request timed out", "raft proposal dropped",
	"connection refused", "connection reset", "error reading from server", "transport is closing",
	"context deadline exceeded",
}

// excuse is the one that a tool has given, "" when there is none.
func (x *tool) excuse() string {
	for _, known := range excuses {
		if strings.Contains(x.errors.String(), known) {
			return known
		}
	}
	return ""
}

// --- What they print. ---------------------------------------------------------------------------------------------

// printed is one event as a tool printed it.
type printed struct {
	key, value string
	revision   int64
}

// byEtcdctl reads what `etcdctl watch -w json` printed.
func byEtcdctl(lines []string) (list []printed, err error) {
	for _, line := range lines {
		var r struct {
			Events []struct {
				Type int
				Kv   struct {
					Key, Value  []byte
					ModRevision int64 `json:"mod_revision"`
				}
			}
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		for _, e := range r.Events {
			if e.Type != 0 {
				return nil, fmt.Errorf("nothing was removed: %s", line)
			}
			list = append(list, printed{string(e.Kv.Key), string(e.Kv.Value), e.Kv.ModRevision})
		}
	}
	return list, nil
}

// checkPrinted holds what a watch printed against all that was written: each event is there, once, in order.
func checkPrinted(got, want []printed) error {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Errorf("event %d is %v instead of %v", i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d events instead of %d", len(got), len(want))
	}
	return nil
}

// announced is one leader as `etcdctl elect --listen` printed it.
type announced struct {
	who     string
	created int64
}

// byListener reads what one run of `etcdctl elect --listen -w json` printed.
func byListener(lines []string) (list []announced, err error) {
	for _, line := range lines {
		var r struct {
			Kvs []struct {
				Value          []byte
				CreateRevision int64 `json:"create_revision"`
			}
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil || len(r.Kvs) != 1 {
			return nil, errors.Join(err, fmt.Errorf("the listener printed %q", line))
		}
		list = append(list, announced{string(r.Kvs[0].Value), r.Kvs[0].CreateRevision})
	}
	return list, nil
}

// checkWinners holds the listener's runs against who won, in order. A new run begins with whoever leads then; within one
// each leader is announced once, and no later one campaigned before an earlier one.
func checkWinners(runs [][]announced, winners []string) error {
	var last announced
	var who []string
	for _, run := range runs {
		for i, a := range run {
			switch {
			case i == 0 && a == last:
				continue
			case a.created <= last.created:
				return fmt.Errorf("announced %v behind %v", a, last)
			}
			last = a
			who = append(who, a.who)
		}
	}
	if got, want := fmt.Sprint(who), fmt.Sprint(winners); got != want {
		return fmt.Errorf("announced %s, won by %s", got, want)
	}
	return nil
}
