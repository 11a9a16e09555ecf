/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the filter of capture sockets (capture.c) and the program at ingress (ingress.c) share.
 *
 *   frame ─▶ capture.c: accepted? relayed by the kernel? ─ no ─▶ capture socket ─▶ worker
 *               │ yes: `decisions`, this CPU                         │
 *               ▼                                                    ▼
 *            ingress.c: executes the decision                     ingress.c: finds none, passes
 *
 * The filter decides, once per frame, and the program at ingress executes what it finds decided: the kernel runs both for one
 * frame after another, on one CPU. So a frame is relayed by the kernel or by a worker, whatever changes meanwhile.
 */
#ifndef MCR_RELAY_H
#define MCR_RELAY_H

#include "packet.h"

/* What the filter does with frames for a destination, an address and a port; port 0: see the flags. */
struct verdict {
	u32 flags;
	u32 relay; /* of `relays`, and 1; 0: a worker relays */
};

/* Whole datagrams are accepted; with port 0: to all ports. */
#define WHOLE 1
/* With port 0: what has no port that is known here is accepted: fragments, odd headers. */
#define ODD 2
/* The same of frames to other hosts' MAC addresses. */
#define PROMISCUOUS_WHOLE 4
#define PROMISCUOUS_ODD 8

/* A rule. It does not change while a verdict names it, so that programs need no lock. */
struct relay {
	struct destination to;
	u32 slot; /* of its counters */
	u32 first; /* of `outputs` */
	u16 output_count;
	u16 max_bytes; /* of an IP packet: the smallest MTU of its outputs */
	u8 min_ttl; /* a worker counts what would expire */
	u8 has_sources;
	u16 zero;
	u32 zeroes[2];
};

struct source {
	u32 relay;
	u32 zero;
	u32 address[4];
};

struct output {
	u32 ifindex;
	u32 slot; /* of its counters */
	u8 ethernet[12]; /* MAC addresses: destination, source */
	u16 source_port, destination_port; /* network byte order; source 0: the arriving one */
	u32 source[4], destination[4]; /* network byte order */
	u32 mark;
	u8 ttl; /* 0: one less than the arriving one */
	u8 service; /* traffic class */
	u8 keeps_dscp;
	u8 zero;
};

/* An input interface. */
struct place {
	u32 epoch; /* 0: workers relay everything */
	u32 broken; /* the epoch in which a decision was not executed: no more are made in it */
};

/* What the filter has decided on this CPU. */
struct decision {
	u32 epoch; /* 0: none */
	u32 ifindex;
	u32 relay;
	u32 zero;
};

extern char accepted; /* hash: struct destination -> struct verdict */
extern char addresses; /* hash: struct source: relay 0: of this host, otherwise admitted -> u32, ignored */
extern char relays; /* array of struct relay */
extern char outputs; /* array of struct output */
extern char places; /* hash: ifindex -> struct place */
extern char engine; /* array: 0 -> time until which decisions are made, CLOCK_MONOTONIC, ns */
extern char decisions; /* array per CPU: 0 -> struct decision */
extern char counters; /* array: CPU * COUNTERS + slot -> struct relay_count; behind those, struct output_count */

/* Of each CPU. */
#define MAX_RELAYS 1024
#define MAX_OUTPUTS 4096
#define COUNTERS (MAX_RELAYS + MAX_OUTPUTS)
/* Of one rule. */
#define MAX_FAN_OUT 16

struct relay_count {
	u64 datagrams, bytes, due, frames;
	u64 first, last; /* CLOCK_MONOTONIC, ns */
	u64 zeroes[2];
};

struct output_count {
	u64 datagrams, bytes, due;
	u64 last_error; /* what sending returned */
	u64 queue_full, unreachable, no_device, other;
};

#endif
