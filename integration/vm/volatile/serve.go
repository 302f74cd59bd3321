package volatile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// The words of the protocol that are used here.
const (
	magicHello   = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption  = 0x49484156454f5054 // "IHAVEOPT"
	magicAnswer  = 0x3e889045565a9
	magicRequest = 0x25609513
	magicReply   = 0x67446698

	fixedNewstyle, noZeroes = 1, 2

	optAbort, optInfo, optGo           = 2, 6, 7
	repAck, repInfo, repUnknown        = 1, 3, 1<<31 | 1
	hasFlags, sendFlush, sendFUA       = 1, 4, 8
	cmdRead, cmdWrite                  = 0, 1
	cmdDisconnect, cmdFlush            = 2, 3
	flagFUA                            = 1
	errIO                              = 5
	maxOption, maxRequest        int64 = 4096, 32 << 20
)

// errDark: nobody answers without power.
var errDark = errors.New("the power has gone")

// Serve serves one connection until it ends.
func (d *Disk) Serve(c net.Conn) error {
	defer func() { _ = c.Close() }()
	if err := d.greet(c); err != nil {
		return fmt.Errorf("cannot serve a disk: %w", err)
	}
	for {
		if err := d.request(c); err != nil {
			if errors.Is(err, errDark) { // an error would be an answer
				_, _ = io.Copy(io.Discard, c)
			}
			if errors.Is(err, io.EOF) || errors.Is(err, errDark) || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("cannot serve a disk: %w", err)
		}
	}
}

func put(c net.Conn, fields ...any) error {
	var b []byte
	for _, f := range fields {
		var err error
		if b, err = binary.Append(b, binary.BigEndian, f); err != nil {
			return err
		}
	}
	_, err := c.Write(b)
	return err
}

// greet agrees on the one export there is.
func (d *Disk) greet(c net.Conn) error {
	var flags uint32
	if err := errors.Join(put(c, uint64(magicHello), uint64(magicOption), uint16(fixedNewstyle|noZeroes)), binary.Read(c, binary.BigEndian, &flags)); err != nil {
		return err
	}
	for {
		var o struct {
			Magic  uint64
			Option uint32
			Len    uint32
		}
		if err := binary.Read(c, binary.BigEndian, &o); err != nil {
			return err
		}
		if o.Magic != magicOption || int64(o.Len) > maxOption {
			return errors.New("not the protocol of network block devices")
		}
		if _, err := io.CopyN(io.Discard, c, int64(o.Len)); err != nil {
			return err
		}
		answer := func(kind, n uint32, fields ...any) error {
			return put(c, append([]any{uint64(magicAnswer), o.Option, kind, n}, fields...)...)
		}
		var err error
		switch o.Option {
		case optGo, optInfo:
			err = answer(repInfo, 12, uint16(0), uint64(d.Size()), uint16(hasFlags|sendFlush|sendFUA))
			if err = errors.Join(err, answer(repAck, 0)); err == nil && o.Option == optGo {
				return nil
			}
		case optAbort:
			return io.EOF
		default:
			err = answer(repUnknown, 0)
		}
		if err != nil {
			return err
		}
	}
}

// request serves one.
func (d *Disk) request(c net.Conn) error {
	var r struct {
		Magic       uint32
		Flags, Type uint16
		Cookie      uint64
		At          uint64
		Len         uint32
	}
	if err := binary.Read(c, binary.BigEndian, &r); err != nil {
		return err
	}
	if r.Magic != magicRequest || int64(r.Len) > maxRequest {
		return errors.New("not a request for a network block device")
	}
	var err error
	var data []byte
	switch r.Type {
	case cmdRead:
		data = make([]byte, r.Len)
		err = d.read(data, int64(r.At))
	case cmdWrite:
		in := make([]byte, r.Len)
		if _, err := io.ReadFull(c, in); err != nil {
			return io.EOF // killed in the middle of it
		}
		err = d.write(in, int64(r.At), r.Flags&flagFUA != 0)
	case cmdFlush:
		err = d.flush()
	case cmdDisconnect:
		return io.EOF
	default:
		err = fmt.Errorf("unknown request %d", r.Type)
	}
	if errors.Is(err, errDark) {
		return err
	}
	code := uint32(0)
	if err != nil {
		code, data = errIO, nil
	}
	return put(c, uint32(magicReply), code, r.Cookie, data)
}
