// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"

	"cairn/tests/harness"
)

// leaders remembers who led in which term: there must be one at most. It reads that in the members' logs, where each
// says so when it begins to lead. (What Status answers does not serve: its term is that of the last applied entry.)
type leaders struct {
	terms map[uint64]uint64
	seen  map[*harness.Member]int64 // How much of each log.
}

func newLeaders() leaders {
	return leaders{map[uint64]uint64{}, map[*harness.Member]int64{}}
}

var becameLeader = regexp.MustCompile(`([0-9a-f]+) became leader at term ([0-9]+)`)

// read goes through what the logs have new.
func (l leaders) read(members []*harness.Member) error {
	for _, m := range members {
		text, err := tail(m.LogPath(), l.seen[m])
		if err != nil {
			return err
		}
		l.seen[m] += int64(len(text))
		for _, found := range becameLeader.FindAllStringSubmatch(text, -1) {
			id, err1 := strconv.ParseUint(found[1], 16, 64)
			term, err2 := strconv.ParseUint(found[2], 10, 64)
			if err1 != nil || err2 != nil {
				return fmt.Errorf("%s: %q", m.Name, found[0])
			}
			if err := l.note(term, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// tail returns a file from an offset on, up to its last whole line.
func tail(path string, offset int64) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return "", err
	}
	data, err := io.ReadAll(file)
	for len(data) > 0 && data[len(data)-1] != '\n' {
		data = data[:len(data)-1]
	}
	return string(data), err
}

func (l leaders) note(term, leader uint64) error {
	if known, ok := l.terms[term]; ok && known != leader {
		return fmt.Errorf("two leaders in term %d: %x and %x", term, known, leader)
	}
	l.terms[term] = leader
	return nil
}
