/* A libnvidia-ml.so.1 that answers from STUB_MODE: what hw/nvml.py asks, as nvml.h declares it.
 * cc -shared -fPIC -o libnvidia-ml.so.1 nvml_stub.c
 * STUB_MODE: two (an RTX 4090 limited to 300 W and an RTX 3090), mig (an H100 in two 3g slices),
 *            mismatch (nvmlInit fails: driver and library differ), lost (the second GPU fell off the bus). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned int u32;
typedef unsigned long long u64;
typedef struct { u64 total, free, used; } memory_t;
enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, MISMATCH = 18, LOST = 15 };

static int is(const char *mode) {
    const char *set = getenv("STUB_MODE");
    return set && strcmp(set, mode) == 0;
}
/* Handles are small numbers: 1, 2 for boards, 101, 102 for MIG slices. */
static long id(void *handle) { return (long)handle; }
static int gone(void *handle) { return is("lost") && id(handle) == 2; }

int nvmlInitWithFlags(u32 flags) { (void)flags; return is("mismatch") ? MISMATCH : OK; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) {
    return code == MISMATCH ? "Driver/library version mismatch" : code == LOST ? "GPU is lost" : "Not Supported";
}
int nvmlSystemGetDriverVersion(char *text, u32 size) { snprintf(text, size, "999.42"); return OK; }
int nvmlDeviceGetCount_v2(u32 *count) { *count = is("mig") ? 1 : 2; return OK; }
int nvmlDeviceGetHandleByIndex_v2(u32 index, void **handle) { *handle = (void *)(long)(index + 1); return OK; }
int nvmlDeviceGetUUID(void *handle, char *text, u32 size) {
    snprintf(text, size, "GPU-0000000%ld-aaaa-bbbb-cccc-dddddddddddd", id(handle));
    return OK;
}
int nvmlDeviceGetName(void *handle, char *text, u32 size) {
    if (gone(handle)) return LOST;
    if (is("mig")) snprintf(text, size, id(handle) > 100 ? "NVIDIA H100 80GB HBM3 MIG 3g.40gb" : "NVIDIA H100 80GB HBM3");
    else snprintf(text, size, id(handle) == 1 ? "NVIDIA GeForce RTX 4090" : "NVIDIA GeForce RTX 3090");
    return OK;
}
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    if (gone(handle)) return LOST;
    memory->total = id(handle) > 100 ? 42949672960ULL : is("mig") ? 85899345920ULL : 25757220864ULL;
    memory->used = id(handle) == 1 ? 1073741824ULL : 0;
    memory->free = memory->total - memory->used;
    return OK;
}
int nvmlDeviceGetPowerManagementLimit(void *handle, u32 *milliwatts) {
    if (id(handle) != 1) return NOT_SUPPORTED;
    *milliwatts = 300000;
    return OK;
}
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    *major = is("mig") ? 9 : 8;
    *minor = is("mig") ? 0 : id(handle) == 1 ? 9 : 6;
    return OK;
}
int nvmlDeviceGetMaxClockInfo(void *handle, u32 kind, u32 *mhz) {
    if (kind == 2 && id(handle) == 1 && !is("mig")) { *mhz = 10501; return OK; }
    return NOT_SUPPORTED;
}
int nvmlDeviceGetMemoryBusWidth(void *handle, u32 *bits) { (void)handle; *bits = 384; return OK; }
int nvmlDeviceGetMigMode(void *handle, u32 *current, u32 *pending) {
    (void)handle;
    if (!is("mig")) return NOT_SUPPORTED;
    *current = *pending = 1;
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(void *handle, u32 *count) { (void)handle; *count = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, u32 index, void **slice) {
    (void)handle;
    if (index > 1) return NOT_FOUND;
    *slice = (void *)(long)(101 + index);
    return OK;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, u64 *reasons) {
    *reasons = id(handle) == 1 ? 0x4 : 0;
    return OK;
}
