// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Changes of a cluster's members and of its leader. Each is repeated until it is done, since a cluster may refuse it
// for a while, and each looks whether an earlier try without an answer did it.

// retry repeats a change that a cluster may refuse for a while: no leader, unhealthy members, a learner that lags.
func (c *Cluster) retry(what string, f func(context.Context) error) {
	c.t.Helper()
	var last error
	for deadline := time.Now().Add(ReadyLimit); time.Now().Before(deadline); time.Sleep(5 * askAgain) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*callLimit)
		last = f(ctx)
		cancel()
		if last == nil {
			return
		}
	}
	c.t.Fatalf("%s: %v", what, last)
}

// Add adds a member of a kind through another member, starts it and waits until it serves. A learner serves only
// serializable reads, so for one it waits until it knows the leader.
func (c *Cluster) Add(through *Member, kind Kind, learner bool) *Member {
	c.t.Helper()
	m := c.place(kind)
	c.Announce(through, m, learner)
	c.must(m.Start())
	if learner {
		c.WaitFollows(m)
	} else {
		c.WaitReady(m)
	}
	return m
}

// Place makes the place of a further member without telling the cluster.
func (c *Cluster) Place(kind Kind) *Member { c.t.Helper(); return c.place(kind) }

// Announce adds a member to the cluster's list and prepares its flags. It is not started.
func (c *Cluster) Announce(through, m *Member, learner bool) {
	c.t.Helper()
	var resp *pb.MemberAddResponse
	c.retry("add "+m.Name, func(ctx context.Context) (err error) {
		resp, err = through.Client().MemberAdd(ctx,
			&pb.MemberAddRequest{PeerURLs: []string{m.PeerURL()}, IsLearner: learner})
		if err != nil { // Perhaps it was done all the same.
			if list, e := through.Client().MemberList(ctx, &pb.MemberListRequest{Linearizable: true}); e == nil {
				if id := idOf(list.Members, m.PeerURL()); id != 0 {
					resp, err = &pb.MemberAddResponse{Member: &pb.Member{ID: id}, Members: list.Members}, nil
				}
			}
		}
		return err
	})
	m.ID = resp.Member.ID
	c.spread(m)
	c.join(m, resp.Members)
}

// spread waits some seconds until all that run list a new member: it believes the first that answers it, and ends when it
// isn't in that one's list.
func (c *Cluster) spread(m *Member) {
	deadline := time.Now().Add(5 * callLimit)
	for _, other := range c.Running() {
		for other.Alive() && time.Now().Before(deadline) && !other.lists(m) {
			time.Sleep(askAgain)
		}
	}
}

// lists says whether the member, by itself, counts another one among the members.
func (m *Member) lists(other *Member) bool {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	list, err := m.Client().MemberList(ctx, &pb.MemberListRequest{})
	return err == nil && idOf(list.Members, other.PeerURL()) != 0
}

func idOf(list []*pb.Member, peerURL string) uint64 {
	for _, m := range list {
		for _, url := range m.PeerURLs {
			if url == peerURL {
				return m.ID
			}
		}
	}
	return 0
}

// join sets the flags of a member that joins a cluster with this list of members.
func (c *Cluster) join(m *Member, list []*pb.Member) {
	var peers []string
	for _, known := range list {
		name := known.Name
		if known.ID == m.ID {
			name = m.Name
		} else if name == "" {
			name = fmt.Sprintf("unstarted-%x", known.ID)
		}
		for _, url := range known.PeerURLs {
			peers = append(peers, name+"="+url)
		}
	}
	m.Args = append(m.flags("existing", peers), c.args...)
}

// WaitFollows waits until a member knows its leader and has applied what the leader had when it was asked.
func (c *Cluster) WaitFollows(m *Member) {
	c.t.Helper()
	var last error
	for deadline := time.Now().Add(ReadyLimit); time.Now().Before(deadline); time.Sleep(askAgain) {
		if last = c.follows(m); last == nil {
			return
		}
		if !m.Alive() {
			break
		}
	}
	c.t.Fatalf("%s does not follow: %v\n%s", m.Name, last, m.LogTail(20))
}

func (c *Cluster) follows(m *Member) error {
	leader := c.Leader(c.Running()...)
	if leader == nil {
		return errors.New("no leader")
	}
	want, err := leader.Status()
	if err != nil {
		return err
	}
	s, err := m.Status()
	if err != nil {
		return err
	}
	if s.Leader != leader.ID || s.RaftAppliedIndex+100 < want.RaftAppliedIndex {
		return fmt.Errorf("leader %x and applied %d, where %s leads at %d", s.Leader, s.RaftAppliedIndex, leader.Name,
			want.RaftAppliedIndex)
	}
	return nil
}

// Promote makes a learner a voter as soon as the cluster lets it.
func (c *Cluster) Promote(through, m *Member) {
	c.t.Helper()
	c.retry("promote "+m.Name, func(ctx context.Context) error {
		_, err := through.Client().MemberPromote(ctx, &pb.MemberPromoteRequest{ID: m.ID})
		if err != nil && strings.Contains(err.Error(), "can only promote a learner member") &&
			!strings.Contains(err.Error(), "in sync") {
			return nil // An earlier try did it.
		}
		return err
	})
	c.WaitReady(m)
}

// Remove takes a member out of the cluster and ends its process.
func (c *Cluster) Remove(through, m *Member) {
	c.t.Helper()
	c.retry("remove "+m.Name, func(ctx context.Context) error {
		_, err := through.Client().MemberRemove(ctx, &pb.MemberRemoveRequest{ID: m.ID})
		if err != nil && strings.Contains(err.Error(), "member not found") {
			return nil // An earlier try did it.
		}
		return err
	})
	m.Removed = true
	m.signalAndReap(syscall.SIGKILL, 10*time.Second)
	c.Net.CloseDoor(m.Index)
}

// Replace removes a member, forgets its data and puts a fresh member of a kind in its place.
func (c *Cluster) Replace(through, m *Member, kind Kind) *Member {
	c.t.Helper()
	c.Remove(through, m)
	c.must(os.RemoveAll(m.DataDir()))
	return c.Add(through, kind, false)
}

// MoveLeader hands the lead to a voter and waits until it has it.
func (c *Cluster) MoveLeader(to *Member) {
	c.t.Helper()
	c.retry("lead moved to "+to.Name, func(ctx context.Context) error {
		leader := c.Leader(c.Running()...)
		switch leader {
		case to:
			return nil
		case nil:
			return errors.New("no leader")
		}
		_, err := pb.NewMaintenanceClient(leader.Conn).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: to.ID})
		if err == nil && c.Leader(c.Running()...) != to {
			err = errors.New("it does not lead yet")
		}
		return err
	})
}
