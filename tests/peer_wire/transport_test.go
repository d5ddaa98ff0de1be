// SPDX-License-Identifier: Apache-2.0

package peer_wire

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	stats "go.etcd.io/etcd/server/v3/etcdserver/api/v2stats"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

const (
	etcdID   = 0x1fcfdbb73019296f
	cairnID  = 0x0f2fddd092557a67
	cluster  = 0x1767c24805d0a3cc
	patience = 20 * time.Second
)

// inbox is where etcd's transport delivers.
type inbox struct {
	got     chan *raftpb.Message
	removed atomic.Bool
}

func (b *inbox) Process(_ context.Context, m *raftpb.Message) error {
	b.got <- m
	return nil
}
func (b *inbox) IsIDRemoved(uint64) bool                    { return b.removed.Load() }
func (b *inbox) ReportUnreachable(uint64)                   {}
func (b *inbox) ReportSnapshot(uint64, raft.SnapshotStatus) {}

type etcd struct {
	*rafthttp.Transport
	inbox *inbox
	host  string
	dir   string
}

// startEtcd starts etcd's transport, to which Cairn is a peer at that URL.
func startEtcd(t *testing.T, cairnURL string) *etcd {
	e := &etcd{inbox: &inbox{got: make(chan *raftpb.Message, 4096)}, dir: t.TempDir()}
	e.Transport = &rafthttp.Transport{
		Logger: zap.NewNop(), ID: etcdID, ClusterID: cluster, Raft: e.inbox, Snapshotter: snap.New(zap.NewNop(), e.dir),
		ServerStats: stats.NewServerStats("", ""), LeaderStats: stats.NewLeaderStats(zap.NewNop(), "1"),
		URLs: types.MustNewURLs([]string{"http://127.0.0.1:1"}), ErrorC: make(chan error, 8), DialTimeout: time.Second,
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(e.Handler())
	e.host = strings.TrimPrefix(server.URL, "http://")
	e.AddPeer(cairnID, []string{cairnURL})
	t.Cleanup(func() {
		server.CloseClientConnections()
		e.Stop()
		server.Close()
	})
	return e
}

// refuseAll is a URL where every request is answered 404.
func refuseAll(t *testing.T) string {
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	return s.URL
}

func (e *etcd) dial(t *testing.T, request []byte) net.Conn {
	conn, err := net.Dial("tcp", e.host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(request); err != nil {
		t.Fatal(err)
	}
	return conn
}

// between makes a message one from a to b.
func between(m *raftpb.Message, from, to uint64) *raftpb.Message {
	m.From, m.To = new(from), new(to)
	return m
}

// appends are as a leader sends them: mostly each behind the last, some empty, with jumps and new terms.
func appends(r *rand.Rand, n int, from, to uint64) []*raftpb.Message {
	var all []*raftpb.Message
	for range n {
		m := between(message(r, raftpb.MsgApp), from, to)
		if len(all) > 0 && r.Intn(5) > 0 {
			last := all[len(all)-1]
			m.Term, m.LogTerm, m.Entries = last.Term, last.Term, nil
			m.Index = new(last.GetIndex() + uint64(len(last.Entries)))
			appendEntries(r, m, r.Intn(6))
		}
		all = append(all, m)
	}
	return all
}

func others(r *rand.Rand, n int, from, to uint64) []*raftpb.Message {
	var all []*raftpb.Message
	for len(all) < n {
		// Proposals have a worker of their own in etcd, so they would come in another order.
		typ := messageTypes[r.Intn(len(messageTypes))]
		if typ != raftpb.MsgSnap && typ != raftpb.MsgProp {
			all = append(all, between(message(r, typ), from, to))
		}
	}
	return all
}

func messagesFor(kind byte, r *rand.Rand, n int, from, to uint64) []*raftpb.Message {
	if kind == kindMsgApp {
		return appends(r, n, from, to)
	}
	return others(r, n, from, to)
}

var kinds = []struct {
	name string
	kind byte
}{{"message", kindMessage}, {"msgapp", kindMsgApp}}

// TestEtcdWrites: Cairn dials a stream, etcd writes it.
func TestEtcdWrites(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			c, r := startTool(t), rand.New(rand.NewSource(seed))
			e := startEtcd(t, refuseAll(t))
			c.open(k.kind, cairnID, etcdID)
			conn := e.dial(t, c.requestHead(k.kind, cairnID, cluster, etcdID, 0, e.host))
			got := make(chan *raftpb.Message, 4096)
			go func() {
				defer close(got)
				buf := make([]byte, 1<<16)
				for {
					n, err := conn.Read(buf[:1+r.Intn(len(buf)-1)])
					if err != nil {
						return
					}
					outcome, messages := c.readResponse(buf[:n])
					for _, m := range messages {
						got <- m
					}
					if outcome != 1 {
						t.Errorf("outcome %d", outcome)
						return
					}
				}
			}()
			attach(t, e, k.kind, got)
			w := rand.New(rand.NewSource(seed))
			for range 10 {
				sent := messagesFor(k.kind, w, 300, etcdID, cairnID)
				e.Send(sent)
				for _, want := range sent {
					expect(t, got, want)
				}
			}
		})
	}
}

// attach waits until what etcd sends goes to the stream.
func attach(t *testing.T, e *etcd, kind byte, got chan *raftpb.Message) {
	probe := between(&raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), Term: new(uint64(1))}, etcdID, cairnID)
	if kind == kindMsgApp {
		probe = between(&raftpb.Message{Type: raftpb.MsgApp.Enum(), Term: new(uint64(1)), LogTerm: new(uint64(1)), Index: new(uint64(1)),
			Commit: new(uint64(1))}, etcdID, cairnID)
	}
	deadline := time.After(patience)
	sent := 0
	for arrived := 0; arrived == 0; {
		e.Send([]*raftpb.Message{probe})
		sent++
		select {
		case <-got:
			arrived++
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatal("the stream was not attached")
		}
	}
	// Those that went elsewhere never come; the last one marks the end of those that do.
	last := between(&raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), Term: new(uint64(77))}, etcdID, cairnID)
	if kind == kindMsgApp {
		last = between(&raftpb.Message{Type: raftpb.MsgApp.Enum(), Term: new(uint64(77)), LogTerm: new(uint64(77)),
			Index: new(uint64(1)), Commit: new(uint64(1))}, etcdID, cairnID)
	}
	e.Send([]*raftpb.Message{last})
	for m := range got {
		if m.GetTerm() == 77 {
			return
		}
	}
	t.Fatal("the stream ended")
}

func expect(t *testing.T, got chan *raftpb.Message, want *raftpb.Message) {
	t.Helper()
	select {
	case m, ok := <-got:
		if !ok {
			t.Fatal("the stream ended")
		}
		if plainOf(m) != plainOf(want) {
			t.Fatalf("\n sent %v\n got  %v", want, m)
		}
	case <-time.After(patience):
		t.Fatalf("did not arrive: %v", want)
	}
}

// streamTo serves etcd's dialer one stream: what comes out of chunks. Any other request is refused.
func streamTo(t *testing.T, path string, chunks <-chan []byte) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	serve := func(conn net.Conn) {
		defer conn.Close()
		request, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		if !strings.HasPrefix(request.URL.Path, path) {
			fmt.Fprintf(conn, "HTTP/1.1 404 Not Found\r\nX-Server-Version: 3.7.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			return
		}
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nX-Server-Version: 3.7.1\r\nX-Etcd-Cluster-Id: %x\r\nTransfer-Encoding: chunked\r\n\r\n",
			uint64(cluster))
		for chunk := range chunks {
			if _, err := conn.Write(chunk); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return "http://" + l.Addr().String()
}

// TestEtcdReads: etcd dials a stream, Cairn writes it.
func TestEtcdReads(t *testing.T) {
	paths := map[byte]string{kindMessage: "/raft/stream/message/", kindMsgApp: "/raft/stream/msgapp/"}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			c, r := startTool(t), rand.New(rand.NewSource(seed))
			chunks := make(chan []byte, 1000)
			e := startEtcd(t, streamTo(t, paths[k.kind], chunks))
			defer close(chunks)
			c.open(k.kind, cairnID, etcdID)
			for range 10 {
				sent := messagesFor(k.kind, r, 300, cairnID, etcdID)
				for _, m := range sent {
					if r.Intn(4) == 0 {
						chunks <- c.ok('h', nil)
					}
					chunks <- c.ok('w', marshal(t, m))
				}
				for _, want := range sent {
					expect(t, e.inbox.got, want)
				}
			}
		})
	}
}

// post sends head and body, and returns the status and the body of the answer.
func (e *etcd) post(t *testing.T, head, body []byte) (int, string) {
	conn := e.dial(t, append(bytes.Clone(head), body...))
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(text)
}

// TestEtcdTakesPosts: the pipeline and a snapshot, head and body by Cairn.
func TestEtcdTakesPosts(t *testing.T) {
	c, r := startTool(t), rand.New(rand.NewSource(seed))
	e := startEtcd(t, refuseAll(t))
	for i := range 200 {
		typ := messageTypes[i%len(messageTypes)]
		if typ == raftpb.MsgSnap {
			continue
		}
		m := between(message(r, typ), cairnID, etcdID)
		outcome, body := c.do('m', marshal(t, m))
		if outcome != 0 {
			t.Fatalf("outcome %d of %v", outcome, m)
		}
		if status, text := e.post(t, c.requestHead(kindPost, cairnID, cluster, 0, len(body), e.host), body); status != 204 {
			t.Fatalf("%d %s", status, text)
		}
		expect(t, e.inbox.got, m)
	}
	for i := range 20 {
		m := between(message(r, raftpb.MsgSnap), cairnID, etcdID)
		m.Snapshot.Metadata.Index = new(uint64(1 + i)) // etcd keeps the first file of an index
		database := data(r, 100000)
		body := append(c.ok('s', marshal(t, m)), database...)
		if status, text := e.post(t, c.requestHead(kindSnapshot, cairnID, cluster, 0, len(body), e.host), body); status != 204 {
			t.Fatalf("%d %s", status, text)
		}
		expect(t, e.inbox.got, m)
		saved, err := os.ReadFile(filepath.Join(e.dir, fmt.Sprintf("%016x.snap.db", m.Snapshot.Metadata.GetIndex())))
		if err != nil || !bytes.Equal(saved, database) {
			t.Fatalf("%d bytes of %d, %v", len(saved), len(database), err)
		}
	}
}

// TestEtcdRefuses: what etcd's handler says is understood.
func TestEtcdRefuses(t *testing.T) {
	const refused, removed = 16 + 5, 16 + 4
	c := startTool(t)
	e := startEtcd(t, refuseAll(t))
	for _, k := range []struct {
		name                string
		member, cluster, to uint64
		outcome             int
	}{
		{"another cluster", cairnID, cluster + 1, etcdID, refused},
		{"another receiver", cairnID, cluster, etcdID + 1, refused},
		{"unknown sender", cairnID + 1, cluster, etcdID, refused},
		{"removed sender", cairnID, cluster, etcdID, removed},
	} {
		e.inbox.removed.Store(k.outcome == removed)
		conn := e.dial(t, c.requestHead(kindMessage, k.member, k.cluster, k.to, 0, e.host))
		c.open(kindMessage, cairnID, etcdID)
		outcome := 1
		for buf := make([]byte, 100); outcome == 1; {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			outcome, _ = c.readResponse(buf[:n])
		}
		if outcome != k.outcome {
			t.Errorf("%s: outcome %d instead of %d", k.name, outcome, k.outcome)
		}
	}
}
