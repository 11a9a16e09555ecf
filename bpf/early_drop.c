// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Drops at the ingress of an interface what MCR has captured, unless a UDP socket of the host receives it. Capture sockets
 * (AF_PACKET) get their copy before this program runs, so it only spares the host's IP input.
 *
 * It passes every frame that it does not understand completely: what it drops is UDP without IP options, extension headers or
 * fragments, without VLAN tag, to this host's MAC address or a group's, to a destination in `destinations`.
 */
#include "packet.h"

struct count {
	u64 datagrams;
	u64 bytes; /* of UDP payload */
};

/* The loader creates the maps; an instruction that loads the address of one gets its descriptor. */
extern char destinations; /* hash: struct destination -> u32, ignored */
extern char control; /* array: 0 -> time until which the program drops, CLOCK_MONOTONIC, ns */
extern char counts; /* hash per CPU: ifindex -> struct count */

/* Whether the frame is for a destination, and the program is in force. */
INLINE int is_taken(const struct destination *destination)
{
	u32 zero = 0;
	u64 *until;

	if (!map_lookup(&destinations, destination))
		return 0;
	until = map_lookup(&control, &zero);
	return until && now_coarse() < *until;
}

INLINE int has_socket(const struct __sk_buff *frame, const void *tuple, u32 size)
{
	void *socket = find_udp_socket(frame, tuple, size, BPF_F_CURRENT_NETNS, 0);

	if (!socket)
		return 0;
	release_socket(socket);
	return 1;
}

INLINE int drop(const struct __sk_buff *frame, u32 header_bytes)
{
	u32 ifindex = frame->ifindex;
	u32 segments = frame->gso_segs;
	u32 len = frame->len;
	struct count *count = map_lookup(&counts, &ifindex);

	if (!segments)
		segments = 1;
	/* Without a counter it would drop what nobody could see. */
	if (!count)
		return NEXT;
	/* A super-frame has the headers once. */
	count->datagrams += segments;
	count->bytes += len - header_bytes;
	return DROP;
}

/* Whether the lengths agree with each other and with the frame, which may be padded. */
INLINE int lengths_agree(u32 room, u32 ip_payload, const struct udp *udp)
{
	u32 len = NETWORK16(udp->len);

	return ip_payload <= room && len >= sizeof(*udp) && len <= ip_payload;
}

INLINE int ipv4(const struct __sk_buff *frame)
{
	struct {
		struct ipv4 ip;
		struct udp udp;
	} packet;
	struct destination destination;
	struct tuple4 tuple;
	u32 len;

	if (load_bytes(frame, ETHERNET_BYTES, &packet, sizeof(packet)))
		return NEXT;
	/* Without options; neither a fragment nor the first of several. */
	if (packet.ip.version_and_words != 0x45 || packet.ip.protocol != UDP_PROTOCOL ||
	    packet.ip.fragment & NETWORK16(0x3fff))
		return NEXT;
	len = NETWORK16(packet.ip.len);
	if (len < sizeof(packet.ip) ||
	    !lengths_agree(frame->len - ETHERNET_BYTES - sizeof(packet.ip), len - sizeof(packet.ip), &packet.udp))
		return NEXT;
	identify(&destination, frame, 4, packet.udp.destination_port);
	SET(destination.address[3], 0);
	SET(destination.address[2], 0);
	SET(destination.address[1], 0);
	SET(destination.address[0], packet.ip.destination);
	if (!is_taken(&destination))
		return NEXT;
	SET(tuple.destination, packet.ip.destination);
	SET(tuple.source, packet.ip.source);
	SET(tuple.destination_port, packet.udp.destination_port);
	SET(tuple.source_port, packet.udp.source_port);
	if (has_socket(frame, &tuple, sizeof(tuple)))
		return NEXT;
	return drop(frame, ETHERNET_BYTES + sizeof(packet));
}

INLINE int ipv6(const struct __sk_buff *frame)
{
	struct {
		struct ipv6 ip;
		struct udp udp;
	} packet;
	struct destination destination;
	struct tuple6 tuple;

	if (load_bytes(frame, ETHERNET_BYTES, &packet, sizeof(packet)))
		return NEXT;
	if ((*(u8 *)&packet.ip & 0xf0) != 0x60 || packet.ip.next_header != UDP_PROTOCOL)
		return NEXT;
	if (!lengths_agree(frame->len - ETHERNET_BYTES - sizeof(packet.ip), NETWORK16(packet.ip.payload_len),
			   &packet.udp))
		return NEXT;
	identify(&destination, frame, 6, packet.udp.destination_port);
	for (int word = 3; word >= 0; word--) {
		SET(tuple.source[word], packet.ip.source[word]);
		SET(tuple.destination[word], packet.ip.destination[word]);
		SET(destination.address[word], packet.ip.destination[word]);
	}
	if (!is_taken(&destination))
		return NEXT;
	SET(tuple.destination_port, packet.udp.destination_port);
	SET(tuple.source_port, packet.udp.source_port);
	if (has_socket(frame, &tuple, sizeof(tuple)))
		return NEXT;
	return drop(frame, ETHERNET_BYTES + sizeof(packet));
}

INLINE int early_drop(struct __sk_buff *frame)
{
	/*
	 * To another host: a macvlan, a bridge or a capture in promiscuous mode may want it. Broadcast: macvlans of containers
	 * get it without asking.
	 */
	if (frame->vlan_present || (frame->pkt_type != PACKET_HOST && frame->pkt_type != PACKET_MULTICAST))
		return NEXT;
	if (frame->protocol == NETWORK16(0x0800))
		return ipv4(frame);
	if (frame->protocol == NETWORK16(0x86dd))
		return ipv6(frame);
	return NEXT;
}

#ifndef PART
SECTION("tc")
int drop_early(struct __sk_buff *frame)
{
	return early_drop(frame);
}
#endif
