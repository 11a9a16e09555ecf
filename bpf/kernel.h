/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the programs use of the kernel's interface (include/uapi/linux/bpf.h), so that they compile without its headers.
 */
#ifndef MCR_KERNEL_H
#define MCR_KERNEL_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

/*
 * Sets a member of a structure on the stack, in the order of the source and by a store of its own. Without CAP_PERFMON, Linux before
 * 6.8 refuses a program that writes to a part of eight aligned bytes on the stack whose first ones have got a number of known range
 * ("attempt to corrupt spilled pointer on stack"). So of each eight bytes, the first ones are set last.
 */
#define SET(member, value) (*(volatile __typeof__(member) *)&(member) = (value))

/* The compiler knows nothing about the value any more. */
#define KEEP(value) __asm__ volatile("" : "+r"(value))

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NETWORK16(x) __builtin_bswap16(x)
#define NETWORK32(x) __builtin_bswap32(x)
#else
#define NETWORK16(x) (x)
#define NETWORK32(x) (x)
#endif

/* The beginning of struct __sk_buff. */
struct __sk_buff {
	u32 len;
	u32 pkt_type;
	u32 mark;
	u32 queue_mapping;
	u32 protocol;
	u32 vlan_present;
	u32 vlan_tci;
	u32 vlan_proto;
	u32 priority;
	u32 ingress_ifindex;
	u32 ifindex;
	u32 tc_index;
	u32 cb[5];
	u32 hash;
	u32 tc_classid;
	u32 data;
	u32 data_end;
	u32 napi_id;
	u32 family;
	u32 remote_ip4;
	u32 local_ip4;
	u32 remote_ip6[4];
	u32 local_ip6[4];
	u32 remote_port;
	u32 local_port;
	u32 data_meta;
	u64 flow_keys;
	u64 tstamp;
	u32 wire_len;
	u32 gso_segs;
	u64 socket;
	u32 gso_size;
};

/* linux/if_packet.h */
#define PACKET_HOST 0
#define PACKET_BROADCAST 1
#define PACKET_MULTICAST 2
#define PACKET_OTHERHOST 3
#define PACKET_OUTGOING 4

/* struct bpf_sock_tuple, one half. */
struct tuple4 {
	u32 source, destination;
	u16 source_port, destination_port;
};
struct tuple6 {
	u32 source[4], destination[4];
	u16 source_port, destination_port;
};

#define BPF_F_CURRENT_NETNS (-1L)
/* Of replace_checksum: the difference is one of the pseudo header; 0 stays 0. */
#define BPF_F_PSEUDO_HDR (1ULL << 4)
#define BPF_F_MARK_MANGLED_0 (1ULL << 5)

/* To the next program; tc: to the next filter (TC_ACT_UNSPEC). */
#define NEXT (-1)
/* TC_ACT_SHOT */
#define DROP 2

static void *(*const map_lookup)(const void *map, const void *key) = (void *)1;
static u32 (*const this_cpu)(void) = (void *)8;
static long (*const store_bytes)(struct __sk_buff *frame, u32 offset, const void *from, u32 len,
				 u64 flags) = (void *)9;
static long (*const replace_checksum)(struct __sk_buff *frame, u32 offset, u64 from, u64 to,
				      u64 flags) = (void *)11;
static long (*const send_clone)(struct __sk_buff *frame, u32 ifindex, u64 flags) = (void *)13;
static long (*const load_bytes)(const struct __sk_buff *frame, u32 offset, void *to, u32 len) = (void *)26;
static void *(*const find_udp_socket)(const struct __sk_buff *frame, const void *tuple, u32 size, u64 namespace,
				      u64 flags) = (void *)85;
static long (*const release_socket)(void *socket) = (void *)86;
static u64 (*const now_coarse)(void) = (void *)160;

#endif
