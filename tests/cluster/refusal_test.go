// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// stranger sends a member's peer port what another one would, with headers of its own.
type stranger struct {
	t       *testing.T
	m       *harness.Member
	headers map[string]string
}

func (s stranger) send(method, path string, body []byte, headers ...string) (status int) {
	s.t.Helper()
	req, err := http.NewRequest(method, fmt.Sprintf("http://127.0.0.1:%d%s", s.m.PeerPort, path), bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for name, value := range s.headers {
		req.Header.Set(name, value)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body) // A refused message's answer ends too early, on purpose.
	return resp.StatusCode
}

func message(t *testing.T, from, to uint64) []byte {
	t.Helper()
	data, err := proto.Marshal(&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: &from, To: &to, Term: proto.Uint64(1)})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// refusalLines knocks in every way that is refused and returns what the member's log says of it, line by line, in order of
// the requests, with the members' names for their ids.
func refusalLines(t *testing.T, kind harness.Kind) (said []string) {
	t.Helper()
	c := harness.StartCluster(t, []harness.Kind{kind, kind, kind}, steady)
	c.MoveLeader(c.Members[0])
	m, other, removed := c.Members[0], c.Members[1], c.Members[2]
	c.Kill(removed)
	c.Remove(m, removed)
	status, err := m.Status()
	if err != nil {
		t.Fatal(err)
	}
	cluster := status.Header.ClusterId
	s := stranger{t, m, map[string]string{"X-Server-From": "b2", "X-Server-Version": "3.7.1", "X-Min-Cluster-Version": "3.0.0",
		"X-Etcd-Cluster-ID": fmt.Sprintf("%x", cluster), "X-Raft-To": fmt.Sprintf("%x", m.ID)}}
	names := []string{fmt.Sprintf("%x", cluster), "CLUSTER"}
	for _, m := range c.Members {
		names = append(names, fmt.Sprintf("%x", m.ID), m.Name)
	}
	stream := func(from uint64) string { return fmt.Sprintf("/raft/stream/message/%x", from) }
	for _, knock := range []struct {
		status int
		line   string
		do     func() int
	}{
		{412, "request cluster ID mismatch", func() int { return s.send("GET", stream(0xb2), nil, "X-Etcd-Cluster-ID", "c2") }},
		{412, "request cluster ID mismatch", func() int {
			return s.send("POST", "/raft", nil, "X-Etcd-Cluster-ID", "c2", "X-Server-From", "b3")
		}},
		{412, "failed version compatibility check", func() int {
			return s.send("GET", stream(0xb2), nil, "X-Server-Version", "2.3.0")
		}},
		{412, "failed version compatibility check", func() int {
			return s.send("POST", "/raft/snapshot", nil, "X-Min-Cluster-Version", "3.9.0", "X-Server-From", "b4")
		}},
		{404, "failed to parse path into ID", func() int { return s.send("GET", "/raft/stream/msgapp/xyz", nil) }},
		{410, "rejected stream from remote peer because it was removed", func() int { return s.send("GET", stream(removed.ID), nil) }},
		{404, "failed to find remote peer in cluster", func() int { return s.send("GET", stream(0xb5), nil) }},
		{412, "ignored streaming request; ID mismatch", func() int { return s.send("GET", stream(other.ID), nil, "X-Raft-To", "b6") }},
		{500, "rejected Raft message from removed member", func() int {
			return s.send("POST", "/raft", message(t, removed.ID, m.ID))
		}},
		{500, "rejected Raft message to mismatch member", func() int { return s.send("POST", "/raft", message(t, 0xb7, 0xb8)) }},
	} {
		from := logSize(m)
		if got := knock.do(); got != knock.status {
			t.Errorf("%s: %q is answered %d, not %d", kind, knock.line, got, knock.status)
		}
		waitSaid(t, m, from, knock.line)
		said = append(said, fieldsOf(t, m, from, knock.line, strings.NewReplacer(names...)))
	}
	return said
}

// fieldsOf returns the first line of a member's log with a message, from an offset on, its fields in order.
func fieldsOf(t *testing.T, m *harness.Member, from int64, msg string, plain *strings.Replacer) string {
	t.Helper()
	text, err := tail(m.LogPath(), from)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(text, "\n") {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) != nil || fields["msg"] != msg {
			continue
		}
		delete(fields, "ts")
		delete(fields, "caller")
		var list []string
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			list = append(list, fmt.Sprintf("%s=%v", name, fields[name]))
		}
		return plain.Replace(strings.Join(list, " "))
	}
	t.Fatalf("no line %q; %s", msg, m.LogTail(20))
	return ""
}

// TestRefusals: who refuses another member says so in its log, with etcd's words and fields.
func TestRefusals(t *testing.T) {
	want := refusalLines(t, harness.Etcd)
	if mode() == string(harness.Etcd) {
		return
	}
	got := refusalLines(t, harness.Cairn)
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("\nwant %s\n got %s", want[i], got[i])
		}
	}
}

// TestForeignCluster: a member of another cluster that takes ours for one of its own is refused for good, twenty times
// a second. Both sides say so, and neither fills its log with it.
func TestForeignCluster(t *testing.T) {
	for _, kinds := range [][]harness.Kind{asAll(harness.Cairn, harness.Cairn), asAll(harness.Cairn, harness.Etcd),
		asAll(harness.Etcd, harness.Cairn)} {
		t.Run(fmt.Sprintf("%s-refuses-%s", kinds[0], kinds[1]), func(t *testing.T) {
			c := harness.StartCluster(t, kinds[:1])
			m, foreign := c.Members[0], c.Place(kinds[1])
			foreign.Args = []string{"--name=" + foreign.Name, "--initial-advertise-peer-urls=" + foreign.PeerURL(),
				"--initial-cluster=" + foreign.Name + "=" + foreign.PeerURL() + "," + m.Name + "=" + m.PeerURL(),
				"--initial-cluster-token=foreign"}
			from := time.Now()
			if err := foreign.Start(); err != nil {
				t.Fatal(err)
			}
			const refusing, refused = "request cluster ID mismatch", "due to cluster ID mismatch"
			waitSaid(t, foreign, 0, refused)
			waitSaid(t, m, 0, refusing)
			waitSaid(t, foreign, logSize(foreign), refused) // By then there were many more requests.
			text, err := tail(m.LogPath(), 0)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(text, refusing); kinds[0] == harness.Cairn && n > 2+int(time.Since(from).Seconds()) {
				t.Errorf("%d lines", n)
			}
			if _, err := m.KV().Put(harness.Context(t, time.Minute), &pb.PutRequest{Key: []byte("k")}); err != nil {
				t.Error(err)
			}
		})
	}
}
