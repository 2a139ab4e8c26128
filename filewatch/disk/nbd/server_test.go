package nbd

import "encoding/binary"

// hello is what a server says up to transmission: an export of 4096 bytes with
// structured replies and base:allocation as context 1.
func hello() []byte {
	b := binary.BigEndian.AppendUint64(nil, initMagic)
	b = binary.BigEndian.AppendUint64(b, optionMagic)
	b = binary.BigEndian.AppendUint16(b, fixedNewstyle|noZeroes)
	b = reply(b, optStructuredReply, repAck, nil)
	b = reply(b, optSetMetaContext, repMetaContext, append([]byte{0, 0, 0, 1}, Allocation...))
	b = reply(b, optSetMetaContext, repAck, nil)
	info := binary.BigEndian.AppendUint64([]byte{0, infoExport}, 4096)
	b = reply(b, optGo, repInfo, append(info, 0, 1))
	return reply(b, optGo, repAck, nil)
}

func reply(b []byte, option, kind uint32, data []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, replyMagic)
	b = binary.BigEndian.AppendUint32(b, option)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// simple is an unstructured answer to the first request.
func simple(code uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, simpleMagic)
	b = binary.BigEndian.AppendUint32(b, code)
	b = binary.BigEndian.AppendUint64(b, 1)
	return append(b, make([]byte, 4096)...)
}
