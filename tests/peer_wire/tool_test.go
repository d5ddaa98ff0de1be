// SPDX-License-Identifier: Apache-2.0

package peer_wire

import (
	"bufio"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// tool is the C side, tests/peer_wire/tool/peer_wire.c. Its commands are described there.
type tool struct {
	t   *testing.T
	mu  sync.Mutex
	in  *bufio.Writer
	out *bufio.Reader
}

func startTool(t *testing.T) *tool {
	path := os.Getenv("PEER_WIRE")
	if path == "" {
		path = "../../build/release/tests/peer_wire/tool/peer_wire"
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no tool: build the project, or name it in PEER_WIRE: %v", err)
	}
	cmd := exec.Command(path)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the tool ended with %v", err)
		}
	})
	return &tool{t: t, in: bufio.NewWriterSize(in, 1<<20), out: bufio.NewReaderSize(out, 1<<20)}
}

// do runs one command.
func (c *tool) do(command byte, payload []byte) (int, []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	head := append([]byte{command}, binary.BigEndian.AppendUint32(nil, uint32(len(payload)))...)
	c.in.Write(head)
	c.in.Write(payload)
	if err := c.in.Flush(); err != nil {
		c.t.Fatalf("the tool ended: %v", err)
	}
	if _, err := io.ReadFull(c.out, head); err != nil {
		c.t.Fatalf("the tool ended: %v; the command was %c %x", err, command, payload)
	}
	answer := make([]byte, binary.BigEndian.Uint32(head[1:]))
	if _, err := io.ReadFull(c.out, answer); err != nil {
		c.t.Fatalf("the tool ended: %v", err)
	}
	return int(head[0]), answer
}

func (c *tool) ok(command byte, payload []byte) []byte {
	c.t.Helper()
	outcome, answer := c.do(command, payload)
	if outcome != 0 {
		c.t.Fatalf("outcome %d of %c %x", outcome, command, payload)
	}
	return answer
}

const (
	kindMessage  = 0
	kindMsgApp   = 1
	kindPost     = 2
	kindSnapshot = 3
)

func (c *tool) open(kind byte, local, remote uint64) {
	payload := binary.BigEndian.AppendUint64([]byte{kind}, local)
	c.ok('o', binary.BigEndian.AppendUint64(payload, remote))
}

// requestHead is a head of the C side's.
func (c *tool) requestHead(kind byte, member, cluster, to uint64, bodyBytes int, host string) []byte {
	payload := []byte{kind}
	for _, v := range []uint64{member, cluster, to, uint64(bodyBytes)} {
		payload = binary.BigEndian.AppendUint64(payload, v)
	}
	return c.ok('q', append(payload, host...))
}

// readResponse gives the C side more of an HTTP response; it answers with the messages in it.
func (c *tool) readResponse(raw []byte) (int, []*raftpb.Message) {
	outcome, answer := c.do('r', raw)
	var messages []*raftpb.Message
	for len(answer) > 0 {
		n := binary.BigEndian.Uint32(answer)
		m := &raftpb.Message{}
		if err := proto.Unmarshal(answer[4:4+n], m); err != nil {
			c.t.Fatal(err)
		}
		messages = append(messages, m)
		answer = answer[4+n:]
	}
	return outcome, messages
}
