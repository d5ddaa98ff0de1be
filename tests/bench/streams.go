// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// The watch scenarios have a client of their own that does no more than it must: it counts events without decoding
// them, since client and server share the processors.

// rawCodec passes message bytes through.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return proto.Marshal(v.(proto.Message)) }

func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append((*v.(*[]byte))[:0], data...)
	return nil
}

func (rawCodec) Name() string { return "proto" }

// watchStream is one open watch stream.
type watchStream struct {
	stream grpc.ClientStream
	cancel context.CancelFunc
	events atomic.Int64
	err    error // Once done is closed.
	done   chan struct{}
}

var watchDesc = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

func openStream(conn *grpc.ClientConn) (*watchStream, error) {
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := conn.NewStream(ctx, watchDesc, pb.Watch_Watch_FullMethodName, grpc.ForceCodec(rawCodec{}))
	if err != nil {
		cancel()
		return nil, err
	}
	return &watchStream{stream: stream, cancel: cancel, done: make(chan struct{})}, nil
}

// create asks for watchers and, if wait says so, reads until all are created.
func (s *watchStream) create(wait bool, requests ...*pb.WatchCreateRequest) error {
	for _, r := range requests {
		if err := s.stream.SendMsg(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}); err != nil {
			return err
		}
	}
	var raw []byte
	for n := 0; wait && n < len(requests); n++ {
		if err := s.stream.RecvMsg(&raw); err != nil {
			return err
		}
		var r pb.WatchResponse
		if err := proto.Unmarshal(raw, &r); err != nil || !r.Created || r.Canceled {
			return fmt.Errorf("instead of a watcher: %v, %v", &r, err)
		}
	}
	return nil
}

// read counts events until the stream ends; each, if not nil, gets every response.
func (s *watchStream) read(each func(raw []byte)) {
	go func() {
		defer close(s.done)
		var raw []byte
		for {
			if s.err = s.stream.RecvMsg(&raw); s.err != nil {
				return
			}
			if n := countEvents(raw); n > 0 {
				if each != nil {
					each(raw)
				}
				s.events.Add(int64(n))
			}
		}
	}()
}

func (s *watchStream) close() { s.cancel() }

// waitEvents waits until a stream has so many events.
func (s *watchStream) waitEvents(want int64, limit time.Duration) error {
	for deadline := time.Now().Add(limit); s.events.Load() < want; time.Sleep(time.Millisecond) {
		select {
		case <-s.done:
			return fmt.Errorf("a watch ended after %d events: %w", s.events.Load(), s.err)
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d events of %d came in %v", s.events.Load(), want, limit)
		}
	}
	return nil
}

// eventsField is the number of WatchResponse.events.
const eventsField = 11

// countEvents counts the events of an encoded WatchResponse.
func countEvents(raw []byte) (count int) {
	for len(raw) > 0 {
		number, kind, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return count
		}
		if number == eventsField {
			count++
		}
		m := protowire.ConsumeFieldValue(number, kind, raw[n:])
		if m < 0 {
			return count
		}
		raw = raw[n+m:]
	}
	return count
}
