// SPDX-License-Identifier: Apache-2.0
// relay_ioctl.h for Swift, which sees neither macros that compute nor variadic functions.
#ifndef CRELAY_IOCTL_H
#define CRELAY_IOCTL_H

#include "relay_ioctl.h"

static const uint32_t crelay_ioc_geometry = RELAY_IOC_GEOMETRY;
static const uint32_t crelay_ioc_statistics = RELAY_IOC_STATISTICS;
static const uint32_t crelay_ioc_flush = RELAY_IOC_FLUSH;
static const uint32_t crelay_ioc_block = RELAY_IOC_BLOCK;
static const uint32_t crelay_ioc_excl = RELAY_IOC_EXCL;
static const uint32_t crelay_ioc_nxcl = RELAY_IOC_NXCL;
static const uint32_t crelay_ioc_peek = RELAY_IOC_PEEK;
static const uint32_t crelay_ioc_frames = RELAY_IOC_FRAMES;

// ioctl(2); `argument` as the command has it. Returns >= 0, or -errno.
int crelay_ioctl(int fd, uint32_t command, void *argument);

_Static_assert(sizeof(struct relay_geometry) == 288, "the same for every compiler");
_Static_assert(sizeof(struct relay_buffer_statistics) == 144, "the same for every compiler");
_Static_assert(sizeof(struct relay_frame) == 40, "the same for every compiler");
_Static_assert(sizeof(struct relay_loss) == 48, "the same for every compiler");

#endif
