/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Headers as they are in a frame, and what names a destination.
 */
#ifndef MCR_PACKET_H
#define MCR_PACKET_H

#include "kernel.h"

struct destination {
	u32 ifindex;
	u16 port; /* network byte order */
	u8 family; /* 4 or 6 */
	u8 zero;
	u32 address[4]; /* network byte order; IPv4: the first word */
};

struct ipv4 {
	u8 version_and_words, service;
	u16 len, id, fragment;
	u8 ttl, protocol;
	u16 checksum;
	u32 source, destination;
} __attribute__((packed, aligned(4)));

struct ipv6 {
	u32 version_class_label;
	u16 payload_len;
	u8 next_header, hop_limit;
	u32 source[4], destination[4];
} __attribute__((packed, aligned(4)));

struct udp {
	u16 source_port, destination_port, len, checksum;
} __attribute__((packed, aligned(4)));

#define ETHERNET_BYTES 14
#define UDP_PROTOCOL 17

/* All but the address. */
INLINE void identify(struct destination *destination, const struct __sk_buff *frame, u8 family, u16 port)
{
	SET(destination->zero, 0);
	SET(destination->family, family);
	SET(destination->port, port);
	SET(destination->ifindex, frame->ifindex);
}

#endif
