// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// entry is a line of cairnutl log dump; the first has the commit index alone.
type entry struct {
	Index, Term uint64
	Data        []byte
}

// dumpLog repeats a dump that ended because the server released a segment which was being printed.
func dumpLog(t *testing.T, s *harness.Server) []entry {
	t.Helper()
	const released = "the member released what was being read: try again"
	for range 10 {
		entries, err := tryDumpLog(t, s)
		if err == nil {
			return entries
		}
		if !strings.Contains(err.Error(), released) {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Fatal("segments are released during every dump")
	return nil
}

func tryDumpLog(t *testing.T, s *harness.Server) (entries []entry, err error) {
	t.Helper()
	bin := os.Getenv("CAIRNUTL_BIN")
	if bin == "" {
		t.Skip("CAIRNUTL_BIN is not set")
	}
	cmd := exec.Command(bin, "log", "dump", "--data-dir", s.DataDir())
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := json.NewDecoder(bufio.NewReaderSize(out, 1<<20))
	for lines.More() {
		var e entry
		must(t, lines.Decode(&e))
		if e.Index > 0 {
			entries = append(entries, e)
		}
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("%v: %s", err, &errs)
	}
	return entries, nil
}

// TestLogDump writes more than some segments and dumps the log while the server runs. Without --max-wals=0 the first
// segments are recycled as soon as their entries are durable in the database; with it they stay, also over a restart.
func TestLogDump(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		kept bool
	}{{"recycled", nil, false}, {"kept", []string{"--max-wals=0"}, true}} {
		t.Run(test.name, func(t *testing.T) {
			s, ctx := harness.StartForTest(t, harness.Cairn, append(test.args, "--snapshot-catchup-entries=10")...), harness.Context(t, time.Minute)
			c := newClient(t, s)
			putSome(t, c, ctx, 150, 1<<20)
			_, err := c.Defragment(ctx, s.Addr())
			must(t, err)
			eventually(t, "the log is as long as it is to be", func() bool {
				entries := dumpLog(t, s)
				return len(entries) > 0 && (entries[0].Index == 1) == test.kept
			})
			checkDump(t, dumpLog(t, s))
			if test.kept {
				_, err := s.Terminate()
				must(t, err)
				must(t, s.StartReady())
				if first := dumpLog(t, s)[0].Index; first != 1 {
					t.Errorf("after a restart the first entry is %d", first)
				}
			}
		})
	}
}

// checkDump demands that indices follow each other and that the last put is the last request.
func checkDump(t *testing.T, entries []entry) {
	t.Helper()
	for i, e := range entries {
		if e.Index != entries[0].Index+uint64(i) || e.Term == 0 {
			t.Fatalf("entry %d of term %d at place %d, the first is %d", e.Index, e.Term, i, entries[0].Index)
		}
	}
	var q pb.InternalRaftRequest
	must(t, proto.Unmarshal(entries[len(entries)-1].Data, &q))
	if string(q.GetPut().GetKey()) != "key-000149" {
		t.Errorf("the last entry is %v", q.GetPut().GetKey())
	}
}
