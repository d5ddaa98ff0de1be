// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"sort"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"
)

// A kill from outside hits where the server spends its time. Failpoints make it end at the places that matter, between
// a write and its sync, between a sync and the answer, in the middle of a batch, while it starts. They exist only in a
// build of their own, which CAIRN_FAILPOINTS_BIN names, and speak gofail's protocol.

// failpoints is the HTTP side of a server's failpoints.
type failpoints struct{ addr string }

func (f failpoints) do(method, path, body string) (string, error) {
	req, err := http.NewRequest(method, "http://"+f.addr+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s %s", method, path, resp.Status, data)
	}
	return string(data), err
}

// names lists the points of the program.
func (f failpoints) names() ([]string, error) {
	list, err := f.do("GET", "/", "")
	var names []string
	for _, line := range strings.Split(list, "\n") {
		if name, _, ok := strings.Cut(line, "="); ok {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names, err
}

func newFailpointRun(t *testing.T) (*run, failpoints) {
	bin := os.Getenv("CAIRN_FAILPOINTS_BIN")
	if bin == "" {
		t.Skip("CAIRN_FAILPOINTS_BIN is not set: skipped what needs a build with failpoints")
	}
	t.Setenv("CAIRN_BIN", bin)
	port, err := harness.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	f := failpoints{fmt.Sprintf("127.0.0.1:%d", port)}
	t.Setenv("GOFAIL_HTTP", f.addr)
	return newRun(t), f
}

// ended waits for the server to end by itself.
func (r *run) ended(limit time.Duration) bool {
	select {
	case <-r.server.Exited():
		return true
	case <-time.After(limit):
		return false
	}
}

// TestPanicAtFailpoints makes the server end at each of its points under load, and checks everything after a restart.
func TestPanicAtFailpoints(t *testing.T) {
	r, f := newFailpointRun(t)
	names, err := f.names()
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 5 {
		t.Fatalf("only %d failpoints: %v", len(names), names)
	}
	hits := map[string]int{}
	for round := 0; round < 3; round++ {
		for _, name := range names {
			r.round++
			r.load(func() {
				r.pause(60 * time.Millisecond)
				r.compact()
				// Not at the first passing: somewhere in the stream.
				if _, err := f.do("PUT", "/"+name, "10%panic"); err != nil && r.server.Alive() {
					t.Errorf("%s: %v", name, err)
				}
				if r.ended(400 * time.Millisecond) {
					hits[name]++
				}
				r.server.Kill9()
			})
			r.restart()
			if t.Failed() {
				t.Fatalf("that was after %s", name)
			}
		}
	}
	for _, name := range names {
		if hits[name] == 0 {
			t.Logf("%s was never passed under load", name)
		}
	}
	if len(hits) < 5 {
		t.Errorf("only %d of %d points ended the server: %v", len(hits), len(names), hits)
	}
	r.t.Logf("%d points, ends at %v; revision %d", len(names), hits, r.h.model.Current)
}

// TestPanicWhileStarting makes the server end at each point while it recovers from a kill, then lets it start.
func TestPanicWhileStarting(t *testing.T) {
	r, f := newFailpointRun(t)
	names, err := f.names()
	if err != nil {
		t.Fatal(err)
	}
	hits := map[string]int{}
	for _, name := range names {
		r.round++
		r.load(func() { r.pause(150 * time.Millisecond); r.kill() })
		r.server.Env = []string{"GOFAIL_FAILPOINTS=" + name + "=50%panic"}
		for range 3 {
			if err := r.server.Start(); err != nil {
				t.Fatal(err)
			}
			if r.ended(300 * time.Millisecond) {
				hits[name]++
			}
			r.server.Kill9()
		}
		r.server.Env = nil
		r.restart()
		if t.Failed() {
			t.Fatalf("that was after %s", name)
		}
	}
	t.Logf("%d points, ends at %v; revision %d", len(names), hits, r.h.model.Current)
	if len(hits) == 0 {
		t.Error("no point ended a starting server")
	}
}

// TestSlowDisk lets each sync of the log sleep; nothing may be lost or answered early, and the server must not fall
// over. A kill in the middle checks that no answer came before its sync.
func TestSlowDisk(t *testing.T) {
	r, f := newFailpointRun(t)
	for r.round = 1; r.round <= 4; r.round++ {
		if _, err := f.do("PUT", "/walBeforeSync", "sleep(30)"); err != nil {
			t.Fatal(err)
		}
		r.load(func() { time.Sleep(400 * time.Millisecond); r.kill() })
		r.restart()
	}
	if r.acknowledged == 0 {
		t.Error("nothing was answered")
	}
}
