// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Relays at the ingress of an interface what the filter of the capture socket has left to it (capture.c), and then does what
 * early_drop.c does.
 *
 * Each output gets a clone of the frame with other headers, by way of the output interface's queueing discipline. Whatever
 * sending returns is counted, so that matched * outputs = sent + dropped. Super-frames stay what they are. UDP checksums are
 * updated by what changes, and not verified: a wrong one stays wrong.
 */
#define PART
#include "early_drop.c"
#include "relay.h"

/* The headers of a frame; the IP header is aligned. */
struct headers4 {
	u16 zero;
	u8 ethernet[ETHERNET_BYTES];
	struct ipv4 ip;
	struct udp udp;
};
struct headers6 {
	u16 zero;
	u8 ethernet[ETHERNET_BYTES];
	struct ipv6 ip;
	struct udp udp;
};

/* All of a frame's headers before the UDP length: what is written. */
#define WRITTEN4 (ETHERNET_BYTES + sizeof(struct ipv4) + 4)
#define WRITTEN6 (ETHERNET_BYTES + sizeof(struct ipv6) + 4)

/* Where the UDP checksum is. */
#define CHECKSUM4 (ETHERNET_BYTES + sizeof(struct ipv4) + 6)
#define CHECKSUM6 (ETHERNET_BYTES + sizeof(struct ipv6) + 6)

/* Adds the difference that a word makes to a sum of words in ones' complement (RFC 1624). */
INLINE u64 difference(u64 sum, u32 before, u32 after)
{
	return sum + (u32)~before + after;
}

INLINE u32 folded(u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

INLINE u32 ports(const struct udp *udp)
{
	return *(const u32 *)udp;
}

/* Writes headers instead of those that the frame has. */
INLINE int write4(struct __sk_buff *frame, const struct headers4 *before, struct headers4 *after)
{
	const u32 *words = (const void *)&after->ip;
	u64 sum;

	after->ip.checksum = 0;
	sum = (u64)words[0] + words[1] + words[2] + words[3] + words[4];
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	after->ip.checksum = ~sum;
	if (store_bytes(frame, 0, after->ethernet, WRITTEN4, 0))
		return -1;
	sum = difference(0, before->ip.source, after->ip.source);
	sum = difference(sum, before->ip.destination, after->ip.destination);
	if (replace_checksum(frame, CHECKSUM4, 0, folded(sum), BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0))
		return -1;
	sum = difference(0, ports(&before->udp), ports(&after->udp));
	return replace_checksum(frame, CHECKSUM4, 0, folded(sum), BPF_F_MARK_MANGLED_0);
}

INLINE int write6(struct __sk_buff *frame, const struct headers6 *before, struct headers6 *after)
{
	u64 sum = 0;

	if (store_bytes(frame, 0, after->ethernet, WRITTEN6, 0))
		return -1;
	for (int word = 0; word < 4; word++) {
		sum = difference(sum, before->ip.source[word], after->ip.source[word]);
		sum = (sum & 0xffffffff) + (sum >> 32);
		sum = difference(sum, before->ip.destination[word], after->ip.destination[word]);
		sum = (sum & 0xffffffff) + (sum >> 32);
	}
	if (replace_checksum(frame, CHECKSUM6, 0, folded(sum), BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0))
		return -1;
	sum = difference(0, ports(&before->udp), ports(&after->udp));
	return replace_checksum(frame, CHECKSUM6, 0, folded(sum), BPF_F_MARK_MANGLED_0);
}

INLINE void address_ports(struct udp *udp, u8 *ethernet, const struct output *output)
{
	if (output->source_port)
		udp->source_port = output->source_port;
	udp->destination_port = output->destination_port;
	for (int byte = 0; byte < 12; byte++)
		ethernet[byte] = output->ethernet[byte];
}

/* linux/netdevice.h: what a queueing discipline returns. */
#define NET_XMIT_DROP 1
#define NET_XMIT_CN 2
/* asm-generic/errno.h */
#define EINVAL 22
#define ENODEV 19
#define ENETDOWN 100

/* Sends the frame as it is, and counts the outcome. */
INLINE void send(struct __sk_buff *frame, const struct output *output, u32 datagrams, u32 bytes)
{
	u32 index = this_cpu() * COUNTERS + MAX_RELAYS + output->slot;
	struct output_count *count = map_lookup(&counters, &index);
	u32 sent, full, unreachable, missing;
	long result, error;

	if (!count)
		return;
	count->due += datagrams;
	frame->mark = output->mark;
	result = send_clone(frame, output->ifindex, 0);
	/* Each counter is changed, by 0 or not: with an address that depends on the result, CAP_PERFMON would be needed. */
	sent = result ? 0 : datagrams;
	full = result == NET_XMIT_DROP ? datagrams : 0;
	/* The discipline of an interface that is down, or has no carrier. */
	unreachable = result == NET_XMIT_CN || result == -ENETDOWN ? datagrams : 0;
	missing = result == -EINVAL || result == -ENODEV ? datagrams : 0;
	bytes = result ? 0 : bytes;
	error = result ? result : count->last_error;
	KEEP(sent);
	KEEP(bytes);
	KEEP(full);
	KEEP(unreachable);
	KEEP(missing);
	KEEP(error);
	count->datagrams += sent;
	count->bytes += bytes;
	count->last_error = error;
	count->queue_full += full;
	count->unreachable += unreachable;
	count->no_device += missing;
	count->other += datagrams - sent - full - unreachable - missing;
}

/* The relay that was decided for this frame. */
INLINE const struct relay *decided(const struct __sk_buff *frame)
{
	u32 zero = 0, index;
	struct decision *decision = map_lookup(&decisions, &zero);

	if (!decision || !decision->epoch || decision->ifindex != frame->ifindex)
		return 0;
	decision->epoch = 0;
	index = decision->relay;
	return map_lookup(&relays, &index);
}

/* As many as a super-frame has, which has the headers once. */
INLINE u32 datagrams_of(const struct __sk_buff *frame, u32 bytes)
{
	u32 size = frame->gso_size;

	return size && bytes > size ? (bytes + size - 1) / size : 1;
}

/* Returns how many there were before. */
INLINE u64 count_matched(const struct relay *relay, u32 datagrams, u32 bytes)
{
	u32 index = this_cpu() * COUNTERS + relay->slot;
	struct relay_count *count = map_lookup(&counters, &index);
	u64 now = now_coarse(), before;

	if (!count)
		return 0;
	before = count->datagrams;
	count->datagrams = before + datagrams;
	count->bytes += bytes;
	count->due += (u64)datagrams * relay->output_count;
	count->frames++;
	if (!count->first)
		count->first = now;
	count->last = now;
	return before;
}

INLINE const struct output *output_of(const struct relay *relay, u32 number)
{
	u32 index = relay->first + number;

	return number < relay->output_count ? map_lookup(&outputs, &index) : 0;
}

INLINE int relay4(struct __sk_buff *frame, const struct relay *relay, int verdict)
{
	struct headers4 original, now;
	u32 mark = frame->mark, bytes = frame->len - (sizeof(original) - 2);
	u32 datagrams = datagrams_of(frame, bytes);
	u16 id;

	if (load_bytes(frame, 0, original.ethernet, sizeof(original) - 2))
		return verdict;
	if (relay->to.address[0] != original.ip.destination || relay->to.port != original.udp.destination_port)
		return verdict;
	id = count_matched(relay, datagrams, bytes);
	now = original;
	for (u32 number = 0; number < MAX_FAN_OUT; number++) {
		const struct output *output = output_of(relay, number);
		struct headers4 next = original;

		if (!output)
			break;
		address_ports(&next.udp, next.ethernet, output);
		next.ip.source = output->source[0];
		next.ip.destination = output->destination[0];
		next.ip.ttl = output->ttl ? output->ttl : original.ip.ttl - 1;
		next.ip.service = output->keeps_dscp ? original.ip.service & 0xfc : output->service;
		/* As from a worker's socket: routers may fragment it. With DF, the identification may be always 0. */
		if (original.ip.fragment) {
			next.ip.fragment = 0;
			next.ip.id = id;
		}
		write4(frame, &now, &next);
		now = next;
		send(frame, output, datagrams, bytes);
	}
	if (verdict == NEXT) {
		/* For the host. */
		frame->mark = mark;
		write4(frame, &now, &original);
	}
	return verdict;
}

INLINE int relay6(struct __sk_buff *frame, const struct relay *relay, int verdict)
{
	struct headers6 original, now;
	u32 mark = frame->mark, bytes = frame->len - (sizeof(original) - 2);
	u32 datagrams = datagrams_of(frame, bytes);

	if (load_bytes(frame, 0, original.ethernet, sizeof(original) - 2))
		return verdict;
	if (relay->to.address[3] != original.ip.destination[3] || relay->to.port != original.udp.destination_port)
		return verdict;
	count_matched(relay, datagrams, bytes);
	now = original;
	for (u32 number = 0; number < MAX_FAN_OUT; number++) {
		const struct output *output = output_of(relay, number);
		struct headers6 next = original;
		u8 service;

		if (!output)
			break;
		address_ports(&next.udp, next.ethernet, output);
		for (int word = 0; word < 4; word++) {
			next.ip.source[word] = output->source[word];
			next.ip.destination[word] = output->destination[word];
		}
		next.ip.hop_limit = output->ttl ? output->ttl : original.ip.hop_limit - 1;
		service = output->service;
		if (output->keeps_dscp)
			service = (NETWORK16(*(u16 *)&original.ip) >> 4) & 0xfc;
		next.ip.version_class_label = NETWORK32(0x60000000 | (u32)service << 20);
		write6(frame, &now, &next);
		now = next;
		send(frame, output, datagrams, bytes);
	}
	if (verdict == NEXT) {
		frame->mark = mark;
		write6(frame, &now, &original);
	}
	return verdict;
}

SECTION("tc")
int ingress(struct __sk_buff *frame)
{
	/* It reads what arrived, so before that is changed. */
	int verdict = early_drop(frame);
	const struct relay *relay = decided(frame);

	if (!relay || relay->to.ifindex != frame->ifindex)
		return verdict;
	if (relay->to.family == 4 && frame->protocol == NETWORK16(0x0800))
		return relay4(frame, relay, verdict);
	if (relay->to.family == 6 && frame->protocol == NETWORK16(0x86dd))
		return relay6(frame, relay, verdict);
	return verdict;
}
