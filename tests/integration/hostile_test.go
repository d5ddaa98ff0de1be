// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// serves checks with a new connection that a server still works.
func serves(t *testing.T, s *harness.Server) {
	t.Helper()
	conn, err := s.Dial()
	must(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	kv := pb.NewKVClient(conn)
	key := []byte("still serving")
	put, err := kv.Put(ctx, &pb.PutRequest{Key: key, Value: []byte(fmt.Sprint(rand.Uint64()))})
	if err != nil {
		t.Fatalf("the server no longer serves: %v\n%s", err, s.LogTail(20))
	}
	got, err := kv.Range(ctx, &pb.RangeRequest{Key: key})
	if err != nil || len(got.Kvs) != 1 || got.Kvs[0].ModRevision != put.Header.Revision {
		t.Fatalf("the server no longer serves: %v %v", got, err)
	}
}

// rawBytes is sent as it is.
type rawBytes []byte

type bytesCodec struct{}

func (bytesCodec) Marshal(v any) ([]byte, error) { return v.(rawBytes), nil }

func (bytesCodec) Unmarshal(data []byte, v any) error {
	*v.(*rawBytes) = append([]byte{}, data...)
	return nil
}

func (bytesCodec) Name() string { return "proto" }

func codeOfRaw(conn *grpc.ClientConn, method string, message []byte) codes.Code {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	var answer rawBytes
	err := conn.Invoke(ctx, method, rawBytes(message), &answer, grpc.ForceCodec(bytesCodec{}))
	return status.Code(err)
}

// Messages that are no protobuf, or none that a decoder should take.
func garbage(rng *rand.Rand) [][]byte {
	list := [][]byte{
		{0xff}, {0x0a}, {0x0a, 0xff}, {0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}, {0x0a, 0x05, 'a'},
		{0x08}, {0x08, 0x80}, bytes.Repeat([]byte{0x80}, 11), {0x0b}, {0x0c}, {0x07, 0x01}, {0x00, 0x01}, {0x0f},
		{0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		{0x12, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01},
		append([]byte{0x0a, 0x80, 0x80, 0x40}, make([]byte, 1<<20)...),
		bytes.Repeat([]byte{0x12, 0x7f}, 50000),
	}
	for i := 0; i < 40; i++ {
		b := make([]byte, 1+rng.IntN(60))
		for j := range b {
			b[j] = byte(rng.Uint32())
		}
		list = append(list, b)
	}
	return list
}

// deepTxn nests a txn in the success list of a txn, depth times; the innermost is empty. It is built from its end, as
// every length counts what follows.
func deepTxn(depth int) []byte {
	buffer := make([]byte, 12*depth)
	at := len(buffer)
	wrap := func(tag byte) {
		head := binary.AppendUvarint([]byte{tag}, uint64(len(buffer)-at))
		at -= len(head)
		copy(buffer[at:], head)
	}
	for range depth {
		wrap(0x22) // RequestOp.request_txn
		wrap(0x12) // TxnRequest.success
	}
	return buffer[at:]
}

// alike compares the codes of two answers to a message that no client makes. The same code is best. A decoder may also
// be stricter than Go's, which passes over a known field of the wrong wire type, and what etcd refuses as undecodable,
// such as a txn nested ten thousand deep, may be refused for another reason.
func alike(want, got codes.Code) bool {
	return want == got || got == codes.Internal || want == codes.Internal && got != codes.OK
}

// TestGarbageMessages sends bytes that no decoder can take, and some that it can, to every method of the KV service and
// its neighbours. Both servers must answer alike; then Cairn must still serve.
func TestGarbageMessages(t *testing.T) {
	cairn, etcd := harness.StartForTest(t, harness.Cairn), harness.StartForTest(t, harness.Etcd)
	var conns [2]*grpc.ClientConn
	for i, s := range []*harness.Server{etcd, cairn} {
		conn, err := s.Dial()
		must(t, err)
		defer conn.Close()
		conns[i] = conn
		// Revision 0 can be compacted once; a garbled request for it must not be the first.
		_, err = pb.NewKVClient(conn).Compact(harness.Context(t, time.Minute), &pb.CompactionRequest{})
		must(t, err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	messages := append(garbage(rng), deepTxn(3), deepTxn(50), deepTxn(4900), deepTxn(5100), deepTxn(200000))
	for _, method := range []string{
		"/etcdserverpb.KV/Range", "/etcdserverpb.KV/Put", "/etcdserverpb.KV/DeleteRange", "/etcdserverpb.KV/Txn",
		"/etcdserverpb.KV/Compact", "/etcdserverpb.Lease/LeaseGrant", "/etcdserverpb.Lease/LeaseRevoke",
		"/etcdserverpb.Lease/LeaseTimeToLive", "/etcdserverpb.Maintenance/HashKV", "/etcdserverpb.Cluster/MemberList",
	} {
		for i, m := range messages {
			want, got := codeOfRaw(conns[0], method, m), codeOfRaw(conns[1], method, m)
			if !alike(want, got) {
				t.Errorf("%s, message %d (%.40x): etcd %v, Cairn %v", method, i, m, want, got)
			}
		}
	}
	for _, method := range []string{
		"/etcdserverpb.KV/Nope", "/nope.Nope/Range", "/etcdserverpb.KV/", "/etcdserverpb.KV", "/x", "/etcdserverpb.KV/range",
		"/etcdserverpb.KV/Range/x", "//",
	} {
		want, got := codeOfRaw(conns[0], method, []byte{0x0a, 1, 'a'}), codeOfRaw(conns[1], method, []byte{0x0a, 1, 'a'})
		if want != got {
			t.Errorf("method %s: etcd %v, Cairn %v", method, want, got)
		}
	}
	serves(t, cairn)
}

// h2 is a bare HTTP/2 connection.
type h2 struct {
	net.Conn
	*http2.Framer
	headers bytes.Buffer
	encoder *hpack.Encoder
}

func dialH2(t *testing.T, s *harness.Server) *h2 {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr())
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	h := &h2{Conn: conn, Framer: http2.NewFramer(conn, conn)}
	h.encoder = hpack.NewEncoder(&h.headers)
	_, err = io.WriteString(conn, http2.ClientPreface)
	must(t, err)
	must(t, h.WriteSettings())
	return h
}

// send opens a stream with the given headers and one DATA frame.
func (h *h2) send(id uint32, headers [][2]string, data []byte, end bool) error {
	h.headers.Reset()
	for _, x := range headers {
		h.encoder.WriteField(hpack.HeaderField{Name: x[0], Value: x[1]})
	}
	err := h.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: h.headers.Bytes(), EndHeaders: true,
		EndStream: data == nil && end})
	if err == nil && data != nil {
		err = h.WriteData(id, end, data)
	}
	return err
}

// outcome waits for the end of a stream: its HTTP status and gRPC status, a reset, or the end of the connection.
func (h *h2) outcome(id uint32) string {
	h.SetReadDeadline(time.Now().Add(5 * time.Second))
	h.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	seen := ""
	for {
		frame, err := h.ReadFrame()
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				return seen + " nothing more"
			}
			return seen + " closed"
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				h.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				h.WritePing(true, f.Data)
			}
		case *http2.MetaHeadersFrame:
			for _, x := range f.Fields {
				if x.Name == ":status" || x.Name == "grpc-status" {
					seen += " " + x.Name + " " + x.Value
				}
			}
			if f.StreamEnded() {
				return seen
			}
		case *http2.DataFrame:
			if f.StreamEnded() {
				return seen
			}
		case *http2.RSTStreamFrame:
			return seen + " reset"
		case *http2.GoAwayFrame:
			return seen + " goaway"
		}
	}
}

func grpcFrame(message []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return append(b, message...)
}

// TestBrokenCalls sends calls that break gRPC's or HTTP/2's rules. What matters is that each ends, those that can't be
// understood with an error, and that the server goes on; where etcd ends one in another way, that is logged. gRPC's C
// core, unlike Go's, takes any content type and takes a message that is marked as compressed but isn't as it is.
func TestBrokenCalls(t *testing.T) {
	etcd, cairn := bothServers(t)
	good := grpcFrame([]byte{0x0a, 1, 'a'})
	headers := func(change ...[2]string) [][2]string {
		base := [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/etcdserverpb.KV/Range"},
			{":authority", "x"}, {"content-type", "application/grpc"}, {"te", "trailers"}}
		for _, c := range change {
			found := false
			for i := range base {
				if base[i][0] == c[0] {
					base[i], found = c, true
				}
			}
			if !found {
				base = append(base, c)
			}
		}
		return base
	}
	for _, x := range []struct {
		name    string
		headers [][2]string
		data    []byte
		fine    bool // The call may succeed.
	}{
		{"a good call", headers(), good, true},
		{"GET", headers([2]string{":method", "GET"}), good, false},
		{"PUT", headers([2]string{":method", "PUT"}), good, false},
		{"other content type", headers([2]string{"content-type", "text/plain"}), good, true},
		{"path without slash", headers([2]string{":path", "etcdserverpb.KV/Range"}), good, false},
		{"empty path", headers([2]string{":path", ""}), good, false},
		{"unknown service", headers([2]string{":path", "/x/y"}), good, false},
		{"metadata that is no UTF-8", headers([2]string{"x-thing", "\xff\xfe\x80"}), good, true},
		{"binary metadata that is no base64", headers([2]string{"x-thing-bin", "!!!"}), good, true},
		{"token that is no UTF-8", headers([2]string{"token", "\xc3\x28"}), good, true},
		{"absurd timeout", headers([2]string{"grpc-timeout", "99999999999999999999H"}), good, true},
		{"negative timeout", headers([2]string{"grpc-timeout", "-1S"}), good, true},
		{"no time left", headers([2]string{"grpc-timeout", "0n"}), good, false},
		{"unknown compression", headers([2]string{"grpc-encoding", "foo"}), append([]byte{1}, good[1:]...), true},
		{"compressed flag without compression", headers(), append([]byte{1}, good[1:]...), true},
		{"frame longer than the data", headers(), []byte{0, 0, 0, 0, 9, 1}, false},
		{"frame of 4 GiB", headers(), []byte{0, 0xff, 0xff, 0xff, 0xff, 1}, false},
		{"two messages", headers(), append(append([]byte{}, good...), good...), true},
		{"no message", headers(), nil, false},
		{"half a frame head", headers(), []byte{0, 0}, false},
		{"big header", headers([2]string{"x-big", strings.Repeat("y", 1<<15)}), good, true},
	} {
		var got [2]string
		for i, s := range []*harness.Server{etcd, cairn} {
			h := dialH2(t, s)
			if err := h.send(1, x.headers, x.data, true); err != nil {
				got[i] = "not sent"
			} else {
				got[i] = h.outcome(1)
			}
			h.Close()
		}
		ok := strings.Contains(got[1], "grpc-status 0")
		if strings.Contains(got[1], "nothing more") && !strings.Contains(got[0], "nothing more") {
			t.Errorf("%s: no end: etcd%s, Cairn%s", x.name, got[0], got[1])
		} else if ok && !x.fine {
			t.Errorf("%s: succeeded: etcd%s, Cairn%s", x.name, got[0], got[1])
		} else if got[0] != got[1] {
			t.Logf("%s: etcd%s, Cairn%s", x.name, got[0], got[1])
		}
		serves(t, cairn)
	}
}

// TestGarbageConnections opens connections that speak nothing known.
func TestGarbageConnections(t *testing.T) {
	s := sharedServer(t, harness.Cairn)
	rng := rand.New(rand.NewPCG(3, 4))
	noise := make([]byte, 70000)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	for _, b := range [][]byte{
		{}, {0}, []byte("P"), []byte("PRI * HTTP/2.0\r\n"), []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot a frame at all"),
		[]byte(http2.ClientPreface + "\xff\xff\xff\x00\x00\x00\x00\x00\x00"), []byte("\x16\x03\x01\x02\x00\x01"),
		[]byte("\x16\x03\x01\xff\xff\x01\xff\xff\xff"), []byte("SSH-2.0-x\r\n"), []byte("\r\n\r\n\r\n"), noise, noise[:9],
		[]byte(strings.Repeat("A", 100000)), []byte("GET " + strings.Repeat("/", 100000)),
	} {
		conn, err := net.Dial("tcp", s.Addr())
		must(t, err)
		conn.Write(b)
		if rng.IntN(2) == 0 {
			conn.(*net.TCPConn).CloseWrite()
			conn.SetReadDeadline(time.Now().Add(time.Second))
			io.Copy(io.Discard, conn)
		}
		conn.Close()
	}
	serves(t, s)
}

// TestIdleConnections opens 10,000 connections that do nothing: some never speak, some stop after the HTTP/2 preface.
func TestIdleConnections(t *testing.T) {
	s := harness.StartForTest(t, harness.Cairn)
	count := harness.EnvInt("CAIRN_IDLE", 10000)
	var limit syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	if room := int(min(limit.Cur, 1<<20)) - 1000; room < count {
		t.Logf("the limit of open files, %d, allows only %d connections", limit.Cur, room)
		count = room
	}
	serves(t, s)
	base, err := harness.MemoryOf(s.Pid())
	must(t, err)
	filesBefore, err := harness.FileCount(s.Pid())
	must(t, err)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	refused := 0
	for i := 0; i < count; i++ {
		conn, err := net.DialTimeout("tcp", s.Addr(), 5*time.Second)
		if err != nil {
			refused++
			if refused > 100 {
				t.Fatalf("connection %d: %v", i, err)
			}
			continue
		}
		conns = append(conns, conn)
		switch i % 4 {
		case 0, 1:
			io.WriteString(conn, http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		case 2:
			io.WriteString(conn, "P")
		}
	}
	serves(t, s)
	full, err := harness.MemoryOf(s.Pid())
	must(t, err)
	t.Logf("%d idle connections (%d refused): resident %d MiB, %d MiB before", len(conns), refused, full.RSS>>20, base.RSS>>20)
	if grown := full.RSS - base.RSS; grown > int64(count)*100<<10 {
		t.Errorf("%d bytes a connection", grown/int64(count))
	}
	for _, c := range conns {
		c.Close()
	}
	conns = nil
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		files, err := harness.FileCount(s.Pid())
		must(t, err)
		if files <= filesBefore+50 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("30 s after the connections were closed %d files are open, %d before", files, filesBefore)
		}
	}
	serves(t, s)
}

// TestClientThatNeverReads asks for much and takes nothing. What the server holds for it is bounded by what was asked,
// others are served meanwhile, and the memory comes back when the connection ends.
func TestClientThatNeverReads(t *testing.T) {
	s := harness.StartForTest(t, harness.Cairn)
	c, ctx := newClient(t, s), harness.Context(t, time.Minute)
	const values, valueSize, asks = 20, 100 << 10, 300
	for i := 0; i < values; i++ {
		_, err := c.Put(ctx, fmt.Sprintf("big/%02d", i), strings.Repeat("x", valueSize))
		must(t, err)
	}
	base, err := harness.MemoryOf(s.Pid())
	must(t, err)
	for _, x := range []struct {
		path string
		end  string
	}{{"/etcdserverpb.KV/Range", ""}, {"/etcdserverpb.KV/RangeStream", "big0"}} {
		h := dialH2(t, s)
		message := []byte("\x0a\x06big/01")
		if x.end != "" {
			message = append([]byte("\x0a\x04big/\x12"), append([]byte{byte(len(x.end))}, x.end...)...)
		}
		for i := uint32(0); i < asks; i++ {
			h.SetWriteDeadline(time.Now().Add(5 * time.Second))
			err := h.send(1+2*i, [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", x.path}, {":authority", "x"},
				{"content-type", "application/grpc"}, {"te", "trailers"}}, grpcFrame(message), true)
			if err != nil {
				break // The server may stop taking more.
			}
		}
		serves(t, s)
		full, err := harness.MemoryOf(s.Pid())
		must(t, err)
		grown := full.RSS - base.RSS
		t.Logf("%s: %d calls unread: %d MiB more resident", x.path, asks, grown>>20)
		bound := int64(asks) * valueSize * 2
		if x.end != "" {
			bound = int64(asks) * valueSize * 10 * 3 // A stream may hold a chunk of ten.
		}
		if grown > bound+64<<20 {
			t.Errorf("%s: %d MiB more resident, want at most %d", x.path, grown>>20, (bound+64<<20)>>20)
		}
		h.Close()
		serves(t, s)
	}
}
