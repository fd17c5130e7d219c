// check="race": every load and store of a kernel comes here, through sanitizer.cpp.
//
// Of the arguments' bytes and those of shared memory it is recorded which thread wrote them last, and who has read them
// since: the last warp's lanes, and a thread of another warp. An access that is not ordered after these by a barrier, a
// __syncwarp or a fence with an atomic is a race.
#include "check.h"

#include <link.h>

#include <algorithm>
#include <unordered_map>
#include <vector>

extern thread_local char machine_dynamic[];
extern "C" const size_t machine_most_dynamic;

namespace machine {

struct Access { uint32_t time, block, site; uint16_t thread; bool atomic, pending; };
struct Cell {
    Access write, read, other;                              // other: of another warp than `read`
    uint32_t lanes;                                         // that have read, of the warp of `read`; none saw another
};

// A cell for 16 bytes, until fewer are accessed at once: then for so many.
struct Shadow {
    std::vector<Cell> cells;
    size_t grain = 16;

    Cell* at(size_t offset, size_t bytes, size_t of) {      // the first of bytes / grain cells
        if (cells.empty()) cells.resize((of + grain - 1) / grain);
        while (offset % grain || bytes % grain) {
            grain /= 2;
            std::vector<Cell> finer(2 * cells.size());
            for (size_t i = 0; i < finer.size(); i++) finer[i] = cells[i / 2];
            cells.swap(finer);
        }
        return &cells[offset / grain];
    }
};

// Lanes of a warp write one place by one instruction: CUDA promises that one of their values is there. That is a race
// unless all write the same, which shows after the write.
struct Doubt { const char* address; size_t bytes; char before[16]; Access mine, old; };

struct Release { uint32_t block, fence, barrier, thread; }; // what a fence and an atomic have published

static char *image, *image_end, *shared_begin;
static size_t shared_size;
static uint32_t now, block_began, last_barrier, last_fence;
static uint32_t seen[1024][32];                             // seen[t][l]: until when thread t knows lane l of its warp
static Shadow shared_shadow;
static std::vector<Shadow> shadows;                         // of each buffer
static Doubt doubt;                                         // bytes: 0 if there is none
static uint32_t last_site_of[1024];                         // of each thread
static std::vector<Absent> absent;
static std::unordered_map<const void*, std::vector<Release>> released;
static std::vector<Release> known;                          // to the running block
static bool watching, in_atomic;
static Access unwritten;                                    // the first read of unwritten shared memory
static const char* unwritten_place;
static const void* last_address;
static uint32_t last_site, repeats;

// -------------------------------------------------------------------------------------- which array an address is in

static int visit(dl_phdr_info* info, size_t, void*) {
    char* base = (char*)info->dlpi_addr;
    char *begin = nullptr, *end = nullptr;
    size_t tls = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const auto& part = info->dlpi_phdr[i];
        if (part.p_type == PT_TLS) tls = part.p_memsz;
        if (part.p_type != PT_LOAD) continue;
        if (!begin) begin = base + part.p_vaddr;
        end = base + part.p_vaddr + part.p_memsz;
    }
    if ((char*)&visit < begin || (char*)&visit >= end) return 0;
    image = base, image_end = end, shared_begin = (char*)info->dlpi_tls_data, shared_size = tls;
    return 1;
}

void find_image() {
    machine_dynamic[0] = 0;                                 // the loader makes thread_local memory at its first use
    dl_iterate_phdr(visit, nullptr);
    memset(shared_begin, 0xff, shared_size);
}

bool in_image(const void* code) { return code >= image && code < image_end; }
uint32_t site_of(const void* code) { return uint32_t((const char*)code - image); }

void clear_shared() {                                       // to NaN, which shows what is read before it is written
    char* end = shared_begin + shared_size;
    memset(shared_begin, 0xff, machine_dynamic - shared_begin);
    memset(machine_dynamic, 0xff, current_launch().dynamic);
    char* rest = machine_dynamic + machine_most_dynamic;
    memset(rest, 0xff, end - rest);
}

static bool in_shared(const char* address) { return size_t(address - shared_begin) < shared_size; }
bool is_shared(const void* address) { return in_shared((const char*)address); }

// The buffer that holds all the bytes, or null.
static const Buffer* buffer_of(const char* address, size_t bytes) {
    const Launch& launch = current_launch();
    for (size_t i = 0; i < launch.buffer_count; i++) {
        const Buffer& b = launch.buffers[i];
        if (address >= b.begin && address + bytes <= b.begin + b.bytes) return &b;
    }
    return nullptr;
}

static bool in_shared_array(const char* address, size_t bytes) {
    const Launch& launch = current_launch();
    if (address >= machine_dynamic && address < machine_dynamic + machine_most_dynamic)
        return address + bytes <= machine_dynamic + launch.dynamic;
    for (size_t i = 0; i < launch.shared_count; i++) {
        const char* begin = shared_begin + size_t(launch.shared[i].begin);
        if (address >= begin && address + bytes <= begin + launch.shared[i].bytes) return true;
    }
    return false;
}

// g++ has a flag beside an array whose elements have constructors, such as half. Filled with ones, it means: done.
static bool is_flag(const char* address) {
    const Launch& launch = current_launch();
    for (size_t i = 0; i < launch.flag_count; i++)
        if (address == shared_begin + launch.flags[i]) return true;
    return false;
}

// "byte 12 of x", "byte 4 beyond the end of x (100 bytes)": x is the nearest array
void describe_address(const char* address, char* text, size_t room) {
    const Launch& launch = current_launch();
    bool shared = in_shared(address);
    std::vector<Buffer> arrays;
    if (shared) arrays.push_back({machine_dynamic, launch.dynamic, 0, "dynamic shared memory"});
    for (size_t i = 0; shared && i < launch.shared_count; i++) {
        arrays.push_back(launch.shared[i]);
        arrays.back().begin = shared_begin + size_t(launch.shared[i].begin);
    }
    for (size_t i = 0; !shared && i < launch.buffer_count; i++) arrays.push_back(launch.buffers[i]);
    const Buffer* nearest = nullptr;
    long long least = 1LL << 36;                            // further away than any int as an index leads
    for (const Buffer& b : arrays) {
        long long away = std::max<long long>({b.begin - address, address - (b.begin + (long long)b.bytes) + 1, 0});
        if (away < least) least = away, nearest = &b;
    }
    if (!nearest) {
        snprintf(text, room, on_a_stack(address) ? "a local variable" :
                 address ? "an address that belongs to no argument" : "a null pointer");
        return;
    }
    long long offset = address - nearest->begin, bytes = (long long)nearest->bytes;
    if (least > 1 << 24) {
        snprintf(text, room, "%.1f GB %s %s, the nearest array; an int may have overflowed", least / 1e9,
                 offset < 0 ? "before" : "beyond", nearest->name);
        return;
    }
    if (offset < 0) snprintf(text, room, "byte %lld before the beginning of %s", -offset, nearest->name);
    else if (offset < bytes) snprintf(text, room, "byte %lld of %s", offset, nearest->name);
    else snprintf(text, room, "byte %lld beyond the end of %s (%lld bytes)", offset - bytes, nearest->name, bytes);
}

// ------------------------------------------------------------------------------------------- what orders two accesses

static bool ordered(const Access& old, unsigned thread) {
    if (!old.time) return true;
    if (old.block == block_running()) {
        if (old.thread == thread || old.time <= last_barrier) return true;
        if (old.thread / 32 == thread / 32 && seen[thread][old.thread % 32] >= old.time) return true;
    }
    for (const Release& r : known)
        if (r.block == old.block && old.time < r.fence && (old.thread == r.thread || old.time <= r.barrier))
            return true;
    return false;
}

static const char* verb(const Access& a, bool wrote) {
    return a.atomic ? "changes atomically" : wrote ? "writes" : "reads";
}

[[noreturn]] static void race(const char* address, const Access& mine, bool write, const Access& old, bool wrote) {
    char where[512];
    describe_address(address, where, sizeof where);
    if (old.pending)
        fault(RACE, SITE WHO "%s %s, to which the cp.async at " AT_SITE " may still be copying: nothing waited for it",
              mine.site, WHO_IS(mine.thread), verb(mine, write), where, old.site);
    uint3 t = index_of(old.thread);
    uint3 b = block_index(old.block);
    fault(RACE, SITE WHO "%s %s, which thread (%u, %u, %u) of block (%u, %u, %u) %s at " AT_SITE ", and nothing puts "
          "the two in an order", mine.site, WHO_IS(mine.thread), verb(mine, write), where, t.x, t.y, t.z,
          b.x, b.y, b.z, verb(old, wrote), old.site);
}

// A place that is read before it is written. (If another thread writes it before the next barrier, that is a race.)
static void report_unwritten() {
    if (!unwritten.time) return;
    char where[512];
    describe_address(unwritten_place, where, sizeof where);
    fault(UNINITIALIZED, SITE WHO "reads %s, which no thread of the block has written", unwritten.site,
          WHO_IS(unwritten.thread), where);
}

static void settle() {
    size_t bytes = doubt.bytes;
    doubt.bytes = 0;
    if (memcmp(doubt.address, doubt.before, bytes)) race(doubt.address, doubt.mine, true, doubt.old, true);
}

static bool by_one_instruction(const Access& a, const Access& b) {
    return a.site == b.site && a.block == b.block && a.thread / 32 == b.thread / 32 && !a.atomic && !a.pending;
}

// One of the lanes whose read is not ordered before `thread`, or null.
static const Access* unordered_read(const Cell& cell, unsigned thread) {
    static Access read;
    read = cell.read;
    for (uint32_t left = cell.lanes; left; left &= left - 1) {
        read.thread = cell.read.thread / 32 * 32 + __builtin_ctz(left);
        if (!ordered(read, thread)) return &read;
    }
    return ordered(cell.other, thread) ? nullptr : &cell.other;
}

static void add_read(Cell& cell, const Access& mine) {
    Access& read = cell.read;
    bool same_warp = read.time && read.block == mine.block && read.thread / 32 == mine.thread / 32;
    if (read.time && !same_warp) cell.other = read;
    if (!same_warp || !unordered_read({{}, read, {}, cell.lanes}, mine.thread)) cell.lanes = 0;
    cell.lanes |= 1u << mine.thread % 32;
    read = mine;
}

static void touch(Cell& cell, const char* address, Access mine, AccessKind kind, bool shared) {
    auto old = [&](Access& a) { return !shared || a.time > block_began ? &a : nullptr; };   // another block's: gone
    Access* write = old(cell.write);
    if (shared && kind != WRITE && !write && !unwritten.time) unwritten = mine, unwritten_place = address;
    if (write && (write->pending || (!(write->atomic && mine.atomic) && !ordered(*write, mine.thread)))) {
        if (kind != WRITE || !by_one_instruction(*write, mine)) race(address, mine, kind != READ, *write, true);
        doubt.mine = mine, doubt.old = *write, doubt.bytes = 1;
    }
    if (kind == READ) {
        if (!old(cell.read)) cell.read = cell.other = {};
        add_read(cell, mine);
        return;
    }
    const Access* read = old(cell.read) ? unordered_read(cell, mine.thread) : nullptr;
    if (read) race(address, mine, true, *read, false);
    cell = {mine, {}, {}, 0};
}

void access(const void* pointer, size_t bytes, AccessKind kind, uint32_t site, bool pending) {
    const char* address = (const char*)pointer;
    if (on_a_stack(address)) return;
    Inside guard;
    if (doubt.bytes) settle();
    bool shared = in_shared(address);
    const Buffer* buffer = shared ? nullptr : buffer_of(address, bytes);
    if (shared ? is_flag(address) : !buffer && in_image(address))
        return;                                             // not the kernel's, or constants and __device__ variables
    if (shared ? !in_shared_array(address, bytes) : !buffer) {
        report_unwritten();
        char where[512];
        describe_address(address, where, sizeof where);
        fault(BOUNDS, SITE WHO "%s %zu bytes at %s", site, WHO_IS(thread_running()),
              kind == READ ? "reads" : "writes", bytes, where);
    }
    repeats = address == last_address && site == last_site && kind == READ ? repeats + 1 : 0;
    last_address = address, last_site = site;
    if (repeats > 1000000)
        fault(BARRIER, SITE WHO "reads one place again and again: it waits for another thread, which here runs only "
              "when this one waits at a barrier", site, WHO_IS(thread_running()));
    unsigned thread = thread_running();
    Access mine{++now, uint32_t(block_running()), site, uint16_t(thread), kind == ATOMIC, pending};
    last_site_of[thread] = site;
    if (shared || !buffer->constant || kind != READ) {
        Shadow& shadow = shared ? shared_shadow : shadows[buffer - current_launch().buffers];
        Cell* cell = shared ? shadow.at(address - shared_begin, bytes, shared_size)
                            : shadow.at(address - buffer->begin, bytes, buffer->bytes);
        for (size_t i = 0; i < bytes; i += shadow.grain) touch(*cell++, address + i, mine, kind, shared);
        if (doubt.bytes) {
            if (bytes > sizeof doubt.before) race(address, mine, true, doubt.old, true);
            doubt.address = address, doubt.bytes = bytes;
            memcpy(doubt.before, address, bytes);
        }
    }
    uint64_t on_gpu = shared ? uint64_t(address - shared_begin) : uint64_t(address - buffer->begin) + buffer->phase;
    if (bytes <= 16) add_request(thread / 32, {site, uint8_t(thread % 32), uint8_t(bytes), kind, shared, on_gpu});
}

// --------------------------------------------------------------------------------------------- called by machine.cpp

void check_launch() {
    forget_requests();
    watching = checking();
    if (!watching) return;
    repeats = 0;
    in_atomic = false;
    released.clear();
    doubt.bytes = 0;
    absent.clear();
    if (now > 1u << 31) {                                   // else times before this launch are simply old
        now = 0;
        memset(seen, 0, sizeof seen);
        shared_shadow = {};
    }
    shadows.assign(current_launch().buffer_count, {});
}

void check_launch_ends() {
    watching = in_atomic = false;
    shadows.clear();
}

void check_block() {
    block_began = last_barrier = ++now;
    last_fence = unwritten.time = 0;
    memset(last_site_of, 0, sizeof last_site_of);
    known.clear();
}

void check_block_ends() {
    if (!watching) return;
    if (doubt.bytes) settle();
    report_unwritten();
    for (unsigned warp = 0; warp < 32; warp++) count_requests(warp);
}

void check_barrier() {
    last_barrier = ++now;
    if (!watching) return;
    if (doubt.bytes) settle();
    report_unwritten();
    for (unsigned warp = 0; warp < 32; warp++) count_requests(warp);
}

void check_warp_barrier(unsigned first, unsigned lanes) {
    if (!checking()) return;
    count_requests(first / 32);
    uint32_t all[32] = {};
    for (unsigned l = 0; l < 32; l++)
        for (unsigned i = 0; lanes >> l & 1 && i < 32; i++) all[i] = std::max(all[i], seen[first + l][i]);
    ++now;
    for (unsigned l = 0; l < 32; l++)
        for (unsigned i = 0; lanes >> l & 1 && i < 32; i++) seen[first + l][i] = lanes >> i & 1 ? now : all[i];
}

void check_absent(unsigned thread, Place place, const char* what, unsigned mask) {
    if (!checking()) return;
    Absent mine{place.file, what, place.line, mask, thread % 32, last_site_of[thread]};
    for (const Absent& other : absent)
        if (other.line == mine.line && other.site == mine.site) return;
    absent.push_back(mine);
}

void check_fence() {
    last_fence = ++now;
}

void check_atomic(const void* address, size_t bytes, uint32_t site) {
    if (!checking()) return;
    access(address, bytes, ATOMIC, site);
    in_atomic = true;
    auto& there = released[address];
    auto learn = [](std::vector<Release>& list, const Release& r) {
        for (Release& mine : list)
            if (mine.block == r.block && mine.thread == r.thread) {
                if (r.fence > mine.fence) mine = r;
                return;
            }
        list.push_back(r);
    };
    for (const Release& r : there) learn(known, r);
    if (!last_fence) return;
    for (const Release& r : known) learn(there, r);
    learn(there, {uint32_t(block_running()), last_fence, last_barrier, thread_running()});
}

void check_atomic_ends() { in_atomic = false; }

bool watches_kernel() { return watching && !in_atomic && !in_machine(); }

void check_read(const void* address, size_t bytes, uint32_t site) {
    if (checking()) access(address, bytes, READ, site);
}

void check_copy(const void* to, const void* from, int bytes, int kept, uint32_t site) {
    if (!checking()) return;
    if (!in_shared((const char*)to))
        fault(BOUNDS, SITE WHO "copies to an address that is not in shared memory", site, WHO_IS(thread_running()));
    if (kept) access(from, kept, READ, site);
    access(to, bytes, WRITE, site, true);
}

// From now on the copy is an ordinary write, done at this time.
void check_landing(const void* to, int bytes, uint32_t site) {
    if (!checking()) return;
    const char* address = (const char*)to;
    Access mine{++now, uint32_t(block_running()), site, uint16_t(thread_running()), false, false};
    Cell* cell = shared_shadow.at(address - shared_begin, bytes, shared_size);
    for (size_t i = 0; i < size_t(bytes); i += shared_shadow.grain, cell++) {
        cell->write.pending = false;
        touch(*cell, address + i, mine, WRITE, true);
    }
}

}  // namespace machine

// Writes the lanes that were named by a mask and did not come to `list`, `room` of them at most. Returns how many.
extern "C" __attribute__((visibility("default"))) size_t machine_absent(machine::Absent* list, size_t room) {
    for (const auto& entry : machine::absent)
        if (room) *list++ = entry, room--;
    return machine::absent.size();
}
