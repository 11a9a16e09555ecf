// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The filter of capture sockets (AF_PACKET) on interfaces of which the kernel relays rules. It accepts what the classic filter
 * (mcr-sys/src/filter.rs) accepts: UDP for wanted destinations, untagged or with a priority tag, and what may be such but has
 * no port that can be known here. Of that, it leaves to the kernel (ingress.c) what is to be relayed there and has nothing
 * that only a worker understands, or counts.
 */
#include "relay.h"

#define REJECT 0
#define ACCEPT (-1)

#define VLAN_ID NETWORK16(0x0fff)

struct frame {
	u16 zero; /* so that the IP header is aligned */
	u8 ethernet[ETHERNET_BYTES];
	union {
		struct ipv4 v4;
		struct ipv6 v6;
	};
};

INLINE int is_wanted(const struct __sk_buff *frame, const struct verdict *verdict, u32 flag, u32 promiscuous)
{
	return verdict->flags & (frame->pkt_type == PACKET_OTHERHOST ? promiscuous : flag);
}

/* Frames without a port. */
INLINE int odd(const struct __sk_buff *frame, struct destination *to)
{
	struct verdict *verdict;

	identify(to, frame, to->family, 0);
	verdict = map_lookup(&accepted, to);
	return verdict && is_wanted(frame, verdict, ODD, PROMISCUOUS_ODD) ? ACCEPT : REJECT;
}

/* What a decision depends on beside the destination. */
struct circumstances {
	const u32 *source;
	u32 words; /* of the source address */
	u32 ip_bytes; /* of the whole packet, a super-frame as such */
	u32 header_bytes; /* IP and UDP */
	u8 ttl;
	u8 is_regular; /* headers and lengths */
};

/* The decision of before was not executed: its frame has not come to the program at ingress. */
INLINE void not_executed(struct decision *last)
{
	u32 ifindex = last->ifindex;
	struct place *place = map_lookup(&places, &ifindex);

	if (place)
		place->broken = last->epoch;
	last->epoch = 0;
}

/* Whether decisions on this interface are executed, as far as is known; returns the epoch. */
INLINE u32 is_executing(const struct __sk_buff *frame)
{
	u32 ifindex = frame->ifindex, zero = 0;
	struct place *place = map_lookup(&places, &ifindex);
	u64 *until = map_lookup(&engine, &zero);

	if (!place || !until || now_coarse() >= *until)
		return 0;
	return place->epoch != place->broken ? place->epoch : 0;
}

INLINE int is_admitted(u32 relay, const struct circumstances *what)
{
	struct source key;

	for (int word = 3; word >= 0; word--)
		SET(key.address[word], (u32)word < what->words ? what->source[word] : 0);
	SET(key.zero, 0);
	SET(key.relay, 0);
	if (map_lookup(&addresses, &key))
		return 0;
	if (!relay)
		return 1;
	SET(key.zero, 0);
	SET(key.relay, relay);
	return !!map_lookup(&addresses, &key);
}

/* Decides that the kernel relays the frame. Returns whether it does. */
INLINE int decide(const struct __sk_buff *frame, u32 number, const struct circumstances *what)
{
	u32 index = number - 1, zero = 0, epoch;
	u32 segment = frame->gso_size;
	struct relay *relay = map_lookup(&relays, &index);
	struct decision *decision = map_lookup(&decisions, &zero);

	if (!relay || !decision || !what->is_regular || frame->vlan_present)
		return 0;
	if (frame->pkt_type != PACKET_HOST && frame->pkt_type != PACKET_MULTICAST)
		return 0;
	if (what->ttl < relay->min_ttl)
		return 0;
	/* Workers send what is too large in fragments. */
	if ((segment ? segment + what->header_bytes : what->ip_bytes) > relay->max_bytes)
		return 0;
	if (!is_admitted(relay->has_sources ? number : 0, what))
		return 0;
	epoch = is_executing(frame);
	if (!epoch)
		return 0;
	decision->ifindex = frame->ifindex;
	decision->relay = index;
	decision->epoch = epoch;
	return 1;
}

INLINE int whole(const struct __sk_buff *frame, struct destination *to, const struct circumstances *what)
{
	struct verdict *verdict = map_lookup(&accepted, to);

	if (verdict && is_wanted(frame, verdict, WHOLE, PROMISCUOUS_WHOLE))
		return verdict->relay && decide(frame, verdict->relay, what) ? REJECT : ACCEPT;
	identify(to, frame, to->family, 0);
	verdict = map_lookup(&accepted, to);
	return verdict && is_wanted(frame, verdict, WHOLE, PROMISCUOUS_WHOLE) ? ACCEPT : REJECT;
}

/* Whether the checksum of a header without options is right. */
INLINE int is_checksum_right(const struct ipv4 *ip)
{
	const u32 *words = (const void *)ip;
	u64 sum = (u64)words[0] + words[1] + words[2] + words[3] + words[4];

	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

INLINE int ipv4(const struct __sk_buff *frame, u32 start)
{
	struct ipv4 ip;
	struct udp udp = {};
	struct destination to;
	struct circumstances what = { .words = 1, .header_bytes = sizeof(ip) + sizeof(udp) };
	u32 len, source, header_bytes;

	if (load_bytes(frame, start, &ip, sizeof(ip)) || ip.protocol != UDP_PROTOCOL)
		return REJECT;
	identify(&to, frame, 4, 0);
	SET(to.address[3], 0);
	SET(to.address[2], 0);
	SET(to.address[1], 0);
	SET(to.address[0], ip.destination);
	header_bytes = (ip.version_and_words & 0xf) * 4;
	if (header_bytes < sizeof(ip) || ip.fragment & NETWORK16(0x3fff))
		return odd(frame, &to);
	if (load_bytes(frame, start + header_bytes, &udp, 4))
		return REJECT;
	identify(&to, frame, 4, udp.destination_port);
	/* Zeroes if it is cut off: then it is not regular. */
	load_bytes(frame, start + header_bytes, &udp, sizeof(udp));
	len = NETWORK16(ip.len);
	source = ip.source;
	what.source = &source;
	what.ip_bytes = len;
	what.ttl = ip.ttl;
	/* Without options, padding or anything behind the datagram. */
	what.is_regular = ip.version_and_words == 0x45 && start == ETHERNET_BYTES && len == frame->len - ETHERNET_BYTES &&
			  NETWORK16(udp.len) == len - sizeof(ip) && len >= what.header_bytes && ip.ttl &&
			  is_checksum_right(&ip);
	return whole(frame, &to, &what);
}

/* Hop-by-hop options, routing, fragment, AH, destination options (RFC 8200, RFC 4302). */
INLINE int is_extension(u8 next_header)
{
	return next_header == 0 || next_header == 43 || next_header == 44 || next_header == 51 || next_header == 60;
}

INLINE int ipv6(const struct __sk_buff *frame, u32 start)
{
	struct ipv6 ip;
	struct udp udp = {};
	struct destination to;
	struct circumstances what = { .words = 4, .header_bytes = sizeof(ip) + sizeof(udp) };
	u32 source[4];
	u32 len;

	if (load_bytes(frame, start, &ip, sizeof(ip)))
		return REJECT;
	identify(&to, frame, 6, 0);
	for (int word = 3; word >= 0; word--) {
		SET(to.address[word], ip.destination[word]);
		SET(source[word], ip.source[word]);
	}
	if (ip.next_header != UDP_PROTOCOL) {
		u8 next;

		if (!is_extension(ip.next_header) || load_bytes(frame, start + sizeof(ip), &next, 1))
			return REJECT;
		/* One header is enough to reject MLD reports, which each member sends to the groups. */
		return is_extension(next) || next == UDP_PROTOCOL ? odd(frame, &to) : REJECT;
	}
	if (load_bytes(frame, start + sizeof(ip), &udp, 4))
		return REJECT;
	identify(&to, frame, 6, udp.destination_port);
	/* Zeroes if it is cut off: then it is not regular. */
	load_bytes(frame, start + sizeof(ip), &udp, sizeof(udp));
	len = NETWORK16(ip.payload_len);
	what.source = source;
	what.ip_bytes = len + sizeof(ip);
	what.ttl = ip.hop_limit;
	/* Without checksum: workers count it (RFC 8200 section 8.1). */
	what.is_regular = (*(u8 *)&ip & 0xf0) == 0x60 && start == ETHERNET_BYTES &&
			  what.ip_bytes == frame->len - ETHERNET_BYTES && NETWORK16(udp.len) == len &&
			  len >= sizeof(udp) && udp.checksum && ip.hop_limit;
	return whole(frame, &to, &what);
}

SECTION("socket")
int capture(struct __sk_buff *frame)
{
	u32 start = ETHERNET_BYTES;
	u32 protocol = frame->protocol, zero = 0;
	struct decision *last;

	if (frame->pkt_type == PACKET_OUTGOING)
		return REJECT;
	last = map_lookup(&decisions, &zero);
	if (last && last->epoch)
		not_executed(last);
	if (frame->vlan_present && frame->vlan_tci & 0x0fff)
		return REJECT;
	if (protocol == NETWORK16(0x8100) || protocol == NETWORK16(0x88a8)) {
		u16 tag[2]; /* VLAN, EtherType */

		if (load_bytes(frame, start, tag, sizeof(tag)) || tag[0] & VLAN_ID)
			return REJECT;
		protocol = tag[1];
		start += sizeof(tag);
	}
	if (protocol == NETWORK16(0x0800))
		return ipv4(frame, start);
	if (protocol == NETWORK16(0x86dd))
		return ipv6(frame, start);
	return REJECT;
}
