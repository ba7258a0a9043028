// SPDX-License-Identifier: Apache-2.0
// LTTng-UST events whose payload is 8, 64 and 256 raw bytes: what lttng_writer writes. Read several
// times by LTTng's own headers, so the guard lets it in again.
#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER relay_bench
#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "lttng_provider.h"

#if !defined(LTTNG_PROVIDER_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define LTTNG_PROVIDER_H

#include <lttng/tracepoint.h>
#include <stdint.h>

LTTNG_UST_TRACEPOINT_EVENT(
    relay_bench, record8, LTTNG_UST_TP_ARGS(const uint64_t *, words),
    LTTNG_UST_TP_FIELDS(lttng_ust_field_array(uint64_t, words, words, 1)))

LTTNG_UST_TRACEPOINT_EVENT(
    relay_bench, record64, LTTNG_UST_TP_ARGS(const uint64_t *, words),
    LTTNG_UST_TP_FIELDS(lttng_ust_field_array(uint64_t, words, words, 8)))

LTTNG_UST_TRACEPOINT_EVENT(
    relay_bench, record256, LTTNG_UST_TP_ARGS(const uint64_t *, words),
    LTTNG_UST_TP_FIELDS(lttng_ust_field_array(uint64_t, words, words, 32)))

#endif

#include <lttng/tracepoint-event.h>
