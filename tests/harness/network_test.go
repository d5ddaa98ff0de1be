// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// testNet is a network with an echoing member 0; dialers say who they are by their port.
type testNet struct {
	*Network
	t    *testing.T
	door string
	mu   sync.Mutex
	who  map[int]int
	got  chan []byte // What reached the member.
}

func newTestNet(t *testing.T) *testNet {
	n := &testNet{t: t, who: map[int]int{}, got: make(chan []byte, 1000)}
	n.Network = NewNetwork(func(dialer *net.TCPAddr, _ net.Addr) int {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.who[dialer.Port]
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	n.must(err)
	t.Cleanup(func() { l.Close(); n.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for {
					buffer := make([]byte, 64<<10)
					count, err := conn.Read(buffer)
					if err != nil {
						return
					}
					n.got <- buffer[:count]
					if _, err := conn.Write(buffer[:count]); err != nil {
						return
					}
				}
			}()
		}
	}()
	n.must(n.Open(0, "127.0.0.1:0", l.Addr().String()))
	n.door = n.doors[0].Addr().String()
	return n
}

func (n *testNet) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// dial connects to member 0 in the name of another. The port is known before the door can ask for it.
func (n *testNet) dial(member int) *net.TCPConn {
	n.t.Helper()
	n.mu.Lock()
	conn, err := net.Dial("tcp", n.door)
	if err == nil {
		n.who[conn.LocalAddr().(*net.TCPAddr).Port] = member
	}
	n.mu.Unlock()
	n.must(err)
	n.t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

func (n *testNet) echo(conn net.Conn, text string) {
	n.t.Helper()
	_, err := conn.Write([]byte(text))
	n.must(err)
	n.reads(conn, text)
}

func (n *testNet) reads(conn net.Conn, text string) {
	n.t.Helper()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	buffer := make([]byte, len(text))
	if _, err := io.ReadFull(conn, buffer); err != nil || string(buffer) != text {
		n.t.Fatalf("want %q, got %q and %v", text, buffer, err)
	}
}

// silent says that nothing comes for a while, and that the connection is open.
func (n *testNet) silent(conn net.Conn) {
	n.t.Helper()
	conn.SetReadDeadline(time.Now().Add(60 * time.Millisecond))
	var one [1]byte
	if count, err := conn.Read(one[:]); count != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		n.t.Fatalf("read %d bytes and %v", count, err)
	}
}

func (n *testNet) ended(conn net.Conn) {
	n.t.Helper()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) {
		n.t.Fatalf("want a reset, got %v", err)
	}
}

func (n *testNet) arrives() {
	n.t.Helper()
	select {
	case <-n.got:
	case <-time.After(10 * time.Second):
		n.t.Fatal("nothing reached the member")
	}
}

func TestNetworkHoldsOneWay(t *testing.T) {
	n := newTestNet(t)
	one, two := n.dial(1), n.dial(2)
	n.echo(one, "a")
	n.echo(two, "b")
	n.arrives()
	n.arrives()
	n.Hold(0, 1) // Answers to member 1 wait, requests don't.
	one.Write([]byte("c"))
	n.arrives()
	n.silent(one)
	n.echo(two, "d")
	n.arrives()
	n.Release(0, 1)
	n.reads(one, "c")

	n.Hold(1, 0) // Requests of member 1 wait.
	one.Write([]byte("e"))
	n.silent(one)
	if len(n.got) != 0 {
		t.Error("a byte passed a held link")
	}
	late := n.dial(1) // A new connection waits as well.
	late.Write([]byte("f"))
	n.silent(late)
	n.Heal(true)
	n.reads(one, "e")
	n.reads(late, "f")
	if n.Passed(1, 0) != 4 || n.Passed(0, 1) != 4 || n.Passed(2, 0) != 2 {
		t.Errorf("passed %d, %d, %d bytes", n.Passed(1, 0), n.Passed(0, 1), n.Passed(2, 0))
	}
}

func TestNetworkHealResetsHeld(t *testing.T) {
	n := newTestNet(t)
	one, two := n.dial(1), n.dial(2)
	n.echo(one, "a")
	n.echo(two, "b")
	n.Hold(1, 0)
	one.Write([]byte("c"))
	n.Heal(false)
	n.ended(one)
	n.echo(two, "d")
	n.echo(n.dial(1), "e")
}

func TestNetworkHoldsTheEnd(t *testing.T) {
	n := newTestNet(t)
	one := n.dial(1)
	n.echo(one, "a")
	n.Hold(0, 1)
	n.must(one.CloseWrite()) // The member closes in turn.
	n.silent(one)
	n.Release(0, 1)
	one.SetReadDeadline(time.Now().Add(10 * time.Second))
	if rest, err := io.ReadAll(one); err != nil || len(rest) != 0 {
		t.Errorf("got %q and %v", rest, err)
	}
}

func TestNetworkCut(t *testing.T) {
	n := newTestNet(t)
	one, two := n.dial(1), n.dial(2)
	n.echo(one, "a")
	n.echo(two, "b")
	n.Cut(0, 1)
	n.ended(one)
	n.ended(n.dial(1))
	n.echo(two, "c")
	n.Heal(false)
	n.echo(n.dial(1), "d")
	n.Reset(2, 0)
	n.ended(two)
	n.echo(n.dial(2), "e")
	n.CloseDoor(0)
	if conn, err := net.Dial("tcp", n.door); err == nil {
		conn.Close()
		t.Error("a closed door was open")
	}
}

func TestNetworkDelays(t *testing.T) {
	n := newTestNet(t)
	one := n.dial(1)
	n.echo(one, "a")
	n.Delay(1, 0, 80*time.Millisecond, 0)
	start := time.Now()
	n.echo(one, "b")
	if took := time.Since(start); took < 80*time.Millisecond {
		t.Errorf("came after %v", took)
	}
	// Much data keeps its order however chunks are delayed.
	n.Delay(1, 0, 0, 5*time.Millisecond)
	n.Delay(0, 1, 0, 5*time.Millisecond)
	sent := make([]byte, 1<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range sent {
		sent[i] = byte(rng.Uint32())
	}
	go func() {
		one.Write(sent)
		one.CloseWrite()
	}()
	go func() {
		for range n.got {
		}
	}()
	one.SetReadDeadline(time.Now().Add(30 * time.Second))
	if got, err := io.ReadAll(one); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(sent), err)
	}
	close(n.got)
}

func TestNetworkTurnsUnknownsAway(t *testing.T) {
	n := newTestNet(t)
	n.ended(n.dial(ownerUnknown))
	if n.Unknown() != 1 {
		t.Errorf("%d unknown connections", n.Unknown())
	}
	n.echo(n.dial(ownerOutside), "a")
}

func TestSocketOwner(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	near, far := conn.LocalAddr().(*net.TCPAddr), conn.RemoteAddr().(*net.TCPAddr)
	inode := socketInode(near, far)
	if inode == 0 || inode == socketInode(far, near) {
		t.Fatalf("inodes %d and %d", inode, socketInode(far, near))
	}
	if !ownsSocket(os.Getpid(), inode) || ownsSocket(os.Getppid(), inode) || ownsSocket(os.Getpid(), inode+1000000) {
		t.Error("the owner is not this process alone")
	}
	if socketInode(near, &net.TCPAddr{IP: near.IP, Port: 1}) != 0 {
		t.Error("found a socket that does not exist")
	}
}

func BenchmarkSocketOwner(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	for b.Loop() {
		ownsSocket(os.Getpid(), socketInode(conn.LocalAddr().(*net.TCPAddr), conn.RemoteAddr().(*net.TCPAddr)))
	}
}
