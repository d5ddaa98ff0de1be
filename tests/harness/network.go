// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Network is what lies between the members of a cluster: each member advertises a door, a listener of this process
// which passes connections on to the member's real peer port. Client traffic does not go through it.
//
// Faults belong to *links*: the ordered pair (from, to) carries the bytes that member from sends to member to, on
// whichever connection. Which member dialed a connection can't be seen in TCP, and in HTTP only on some requests, so
// the door asks the kernel whose socket is at the other end (socket_owner.go); that holds for every request, for TLS
// and for every kind of member. A connection of member a to b's door thus has bytes of link (a, b), the requests,
// and of link (b, a), the answers. Peers stream messages in answers, so a link carries them either way.
//
//   - Hold stalls a link: nothing of it arrives any more, connections stay open, and what is under way waits (in
//     the kernel's buffers: the sender feels it at last). Release lets it arrive, late.
//   - Cut resets the connections of two members and every new one.
//   - Delay makes each chunk of a link wait, in order.
//   - Reset resets the connections of two members once.
//
// Threads: one accepts per door, one dials and two read and two write per connection; rules may be changed by anyone.
//
// Invariants:
//
//  1. No byte of a held link is written, and no end of a connection is passed on over one.
//  2. Bytes arrive in order or the connection is reset; none is lost on an open connection.
//  3. A connection whose dialer is no member and not this process is reset, and counted.
type Network struct {
	owner func(dialer *net.TCPAddr, door net.Addr) int // A member, or ownerOutside or ownerUnknown.

	mu      sync.Mutex
	links   map[link]*rule
	changed chan struct{} // Closed and replaced when a rule changes.
	doors   map[int]net.Listener
	conns   map[*passage]bool
	unknown int
	passed  map[link]int64
}

type link struct{ from, to int }

type rule struct {
	held, cut     bool
	delay, jitter time.Duration
}

const (
	ownerOutside = -1 // This process: a test that looks at a peer port itself. No rule is for it.
	ownerUnknown = -2

	chunkBytesMax  = 32 << 10
	chunksQueueMax = 64
)

// NewNetwork returns a network without members. The function tells which member a dialer's address belongs to.
func NewNetwork(owner func(dialer *net.TCPAddr, door net.Addr) int) *Network {
	return &Network{owner: owner, links: map[link]*rule{}, changed: make(chan struct{}), doors: map[int]net.Listener{},
		conns: map[*passage]bool{}, passed: map[link]int64{}}
}

// Open opens a member's door at an address; connections are passed on to the target.
func (n *Network) Open(member int, address, target string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.doors[member] = l
	n.mu.Unlock()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go n.enter(conn.(*net.TCPConn), l.Addr(), member, target)
		}
	}()
	return nil
}

// CloseDoor takes a member off the network.
func (n *Network) CloseDoor(member int) {
	n.mu.Lock()
	l := n.doors[member]
	delete(n.doors, member)
	n.mu.Unlock()
	if l != nil {
		l.Close()
	}
	n.resetIf(func(p *passage) bool { return p.dialer == member || p.member == member })
}

// Close closes every door and connection.
func (n *Network) Close() {
	n.mu.Lock()
	doors := n.doors
	n.doors = map[int]net.Listener{}
	n.mu.Unlock()
	for _, l := range doors {
		l.Close()
	}
	n.resetIf(func(*passage) bool { return true })
}

// Hold stalls what one member sends to another.
func (n *Network) Hold(from, to int) { n.change(from, to, func(r *rule) { r.held = true }) }

// Release ends Hold.
func (n *Network) Release(from, to int) { n.change(from, to, func(r *rule) { r.held = false }) }

// Cut parts two members until Heal.
func (n *Network) Cut(a, b int) {
	n.change(a, b, func(r *rule) { r.cut = true })
	n.change(b, a, func(r *rule) { r.cut = true })
	n.Reset(a, b)
}

// Delay makes what one member sends to another arrive late: by the delay and up to the jitter more.
func (n *Network) Delay(from, to int, delay, jitter time.Duration) {
	n.change(from, to, func(r *rule) { r.delay, r.jitter = delay, jitter })
}

// Reset resets the connections between two members.
func (n *Network) Reset(a, b int) {
	n.resetIf(func(p *passage) bool {
		return p.dialer == a && p.member == b || p.dialer == b && p.member == a
	})
}

// Heal takes all rules back. What was held arrives now when late is set, else its connections are reset, as after a
// partition that outlived TCP's patience.
func (n *Network) Heal(late bool) {
	n.mu.Lock()
	held := map[link]bool{}
	for l, r := range n.links {
		held[l] = r.held
	}
	n.mu.Unlock()
	if !late {
		n.resetIf(func(p *passage) bool { return held[link{p.dialer, p.member}] || held[link{p.member, p.dialer}] })
	}
	n.mu.Lock()
	n.links = map[link]*rule{}
	n.tell()
	n.mu.Unlock()
}

// Passed returns how many bytes of a link were passed on.
func (n *Network) Passed(from, to int) int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.passed[link{from, to}]
}

// Connections counts the open connections that a member dialed to another's door.
func (n *Network) Connections(dialer, member int) (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for p := range n.conns {
		if p.dialer == dialer && p.member == member {
			count++
		}
	}
	return count
}

// Unknown counts the connections that were reset because nobody owned them any more.
func (n *Network) Unknown() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.unknown
}

func (n *Network) change(from, to int, f func(*rule)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := link{from, to}
	if n.links[l] == nil {
		n.links[l] = &rule{}
	}
	f(n.links[l])
	n.tell()
}

func (n *Network) tell() {
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *Network) rule(l link) (rule, chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r := n.links[l]; r != nil {
		return *r, n.changed
	}
	return rule{}, n.changed
}

func (n *Network) resetIf(f func(*passage) bool) {
	n.mu.Lock()
	var list []*passage
	for p := range n.conns {
		if f(p) {
			list = append(list, p)
		}
	}
	n.mu.Unlock()
	for _, p := range list {
		p.reset()
	}
}

// passage is one connection through a door.
type passage struct {
	net            *Network
	dialer, member int
	near           *net.TCPConn // To the dialer.
	far            *net.TCPConn // To the member; nil until dialed.

	mu     sync.Mutex
	closed bool
	done   chan struct{}
}

type chunk struct {
	data []byte
	due  time.Time
}

// enter runs a connection from its arrival to its end.
func (n *Network) enter(near *net.TCPConn, door net.Addr, member int, target string) {
	dialer := n.owner(near.RemoteAddr().(*net.TCPAddr), door)
	p := &passage{net: n, dialer: dialer, member: member, near: near, done: make(chan struct{})}
	n.mu.Lock()
	_, open := n.doors[member]
	if dialer == ownerUnknown {
		n.unknown++
	}
	n.conns[p] = true
	n.mu.Unlock()
	defer p.forget()
	if dialer == ownerUnknown || !open {
		p.reset()
		return
	}
	there, back := link{dialer, member}, link{member, dialer}
	r, _ := n.rule(there)
	if r.cut || !p.wait(there) {
		p.reset()
		return
	}
	conn, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil || !p.reached(conn.(*net.TCPConn)) {
		p.reset()
		return
	}
	var both sync.WaitGroup
	both.Add(2)
	go func() { defer both.Done(); p.flow(there, p.near, p.far) }()
	go func() { defer both.Done(); p.flow(back, p.far, p.near) }()
	both.Wait()
	p.end(false)
}

// reached notes the connection to the member; false when the passage was reset meanwhile.
func (p *passage) reached(conn *net.TCPConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		conn.Close()
		return false
	}
	p.far = conn
	return true
}

// wait waits while the link is held; false when the connection ends first.
func (p *passage) wait(l link) bool {
	for {
		r, changed := p.net.rule(l)
		select {
		case <-p.done:
			return false
		default:
		}
		if !r.held {
			return true
		}
		select {
		case <-changed:
		case <-p.done:
			return false
		}
	}
}

// flow carries the bytes of a link over one connection until their end.
func (p *passage) flow(l link, from, to *net.TCPConn) {
	queue := make(chan chunk, chunksQueueMax)
	go func() {
		defer close(queue)
		for {
			buffer := make([]byte, chunkBytesMax)
			count, err := from.Read(buffer)
			if count > 0 && !p.push(queue, l, buffer[:count]) {
				return
			}
			if err != nil {
				if err != io.EOF {
					p.reset()
				}
				return
			}
		}
	}()
	for c := range queue {
		if !p.until(c.due) || !p.wait(l) {
			return
		}
		p.net.mu.Lock()
		p.net.passed[l] += int64(len(c.data))
		p.net.mu.Unlock()
		if _, err := to.Write(c.data); err != nil {
			p.reset()
			return
		}
	}
	if p.wait(l) {
		to.CloseWrite()
	}
}

func (p *passage) push(queue chan chunk, l link, data []byte) bool {
	r, _ := p.net.rule(l)
	c := chunk{data: data}
	if r.delay+r.jitter > 0 {
		c.due = time.Now().Add(r.delay + time.Duration(rand.Int64N(int64(r.jitter)+1)))
	}
	select {
	case queue <- c:
		return true
	case <-p.done:
		return false
	}
}

func (p *passage) until(due time.Time) bool {
	if due.IsZero() {
		return true
	}
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.done:
		return false
	}
}

// reset ends the connection at both sides without an orderly end.
func (p *passage) reset() { p.end(true) }

func (p *passage) end(abort bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	close(p.done)
	for _, conn := range []*net.TCPConn{p.near, p.far} {
		if conn == nil {
			continue
		}
		if abort {
			conn.SetLinger(0)
		}
		conn.Close()
	}
}

func (p *passage) forget() {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	delete(p.net.conns, p)
}
