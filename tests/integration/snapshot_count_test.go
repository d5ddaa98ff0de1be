// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"
)

// lastNumber returns a field of the last line of the server's log with this message; 0 when there is none.
func lastNumber(t *testing.T, s *harness.Server, msg, field string) (number uint64) {
	t.Helper()
	text, err := os.ReadFile(s.LogPath())
	must(t, err)
	for _, line := range strings.Split(string(text), "\n") {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) == nil && fields["msg"] == msg {
			number = uint64(fields[field].(float64))
		}
	}
	return number
}

// TestSnapshotCount: what is applied becomes durable in the database after so many entries, however small they are. A
// kill -9 shows what was: what the server said, and what was applied between that and its flush. By default so few
// entries are left to the log.
func TestSnapshotCount(t *testing.T) {
	const puts, count = 350, 100
	for _, test := range []struct {
		name  string
		args  []string
		least uint64 // Of the applied index that is durable.
	}{{"given", []string{"--snapshot-count=100"}, puts - count}, {"default", nil, 0}} {
		t.Run(test.name, func(t *testing.T) {
			s, ctx := harness.StartForTest(t, harness.Cairn, test.args...), harness.Context(t, time.Minute)
			putSome(t, newClient(t, s), ctx, puts, 10)
			eventually(t, "all but one count is durable", func() bool {
				return lastNumber(t, s, "saved snapshot to disk", "snapshot-index") >= test.least
			})
			saved := lastNumber(t, s, "saved snapshot to disk", "snapshot-index")
			must(t, s.Kill9())
			must(t, s.StartReady())
			applied := lastNumber(t, s, "restarting local member", "applied-index")
			if applied < saved || (saved == 0 && applied > 0) {
				t.Errorf("%d entries were durable, %d of them said to be", applied, saved)
			}
		})
	}
}

// TestSnapshotCountCutsLog: the log's files go as soon as a count is durable, long before they would by their size.
func TestSnapshotCountCutsLog(t *testing.T) {
	const puts, valueBytes = 500, 16 << 10 // The first two files, of 1 and 4 MiB, are full with two thirds of them.
	for _, test := range []struct {
		name string
		args []string
		cut  bool
	}{{"given", []string{"--snapshot-count=100"}, true}, {"default", nil, false}} {
		t.Run(test.name, func(t *testing.T) {
			args := append(test.args, "--snapshot-catchup-entries=10")
			s, ctx := harness.StartForTest(t, harness.Cairn, args...), harness.Context(t, time.Minute)
			putSome(t, newClient(t, s), ctx, puts, valueBytes)
			if !test.cut {
				if first := dumpLog(t, s)[0].Index; first != 1 {
					t.Errorf("the log begins at %d", first)
				}
				return
			}
			eventually(t, "the log is cut", func() bool {
				entries := dumpLog(t, s)
				return len(entries) > 0 && entries[0].Index > puts/2
			})
		})
	}
}
