// A GPU emulated: blocks run one after another, and each thread of a block is a fiber with its own stack.
//
// A thread runs until it has to wait for others (a barrier, a shuffle) and then yields to the next one in the chosen
// order. Nothing runs at the same time, so a kernel gives the same result every time it is run.
#include "check.h"

#include <link.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// void machine_switch(void** old_stack, void* new_stack): saves the registers that a function call must preserve on the
// old stack, and restores them from the new one.
asm(R"(
    .text
    .hidden machine_switch
    .globl machine_switch
    .type machine_switch, @function
machine_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size machine_switch, .-machine_switch
)");
extern "C" void machine_switch(void** old_stack, void* new_stack);
extern "C" void machine_kernel(int which, void** arguments);           // written by source.py for each file
extern "C" void machine_parameters(int which, char* text, size_t room);
extern "C" long machine_most_threads(int which);

namespace machine {

// Stacks lie an odd number of pages apart: at a power of two all would share a few places of the CPU's address cache.
constexpr size_t STACK = 256 << 10, GUARD = 4096, STRIDE = STACK + GUARD, MOST_THREADS = 1024;
constexpr int SPINS = 16, PATIENCE = 200000;                // until a spinning thread yields; until all are stuck
constexpr int TICK = 20000, SPIN_LOOKS = 10;                // microseconds between looks at a thread; that see no change

enum State { READY, AT_BARRIER, IN_WARP, AT_MASK, DONE };

struct Copy { char* to; const char* from; int bytes, kept; bool committed; uint32_t site; };

struct SharedArray {                                        // for stepping: see machine.h
    const char* name;
    const void* address;
    char kind;
    size_t size, bytes;
    std::vector<size_t> shape;
};

struct Thread {
    void* stack;
    State state;
    const char* what;                                       // what it waits for, and where
    Place place;
    int predicate;
    uint3 index;
    unsigned mask;                                          // of the warp operation
    void (*resolve)(Group&);
    void* brought;
    std::vector<std::vector<Copy>> copies;                  // groups of cp.async; the last one is open
};

static Launch* launch;
static std::vector<SharedArray> shared_arrays;
static Thread threads[MOST_THREADS];
static unsigned count, running, left;                       // threads of the block; the one that runs; not returned yet
static std::vector<unsigned> order;                         // of a round, and the place in it of the next thread
static unsigned position;
static Votes votes;                                         // of the last barrier
static Thread* together_now;                                // a lane of the warp operation that is being resolved
static void* scheduler;
static sigjmp_buf home;
static pthread_t owner;
static volatile sig_atomic_t interrupted, inside;           // in the machine's code, not in the kernel's
static bool on_fiber;
static char* stacks;
static uint64_t random_state;
static const void* spun_at;
static int spins, waits;
static long long steps;

bool checking() { return launch->check; }
bool in_machine() { return inside; }
unsigned thread_running() { return running; }
uint64_t block_running() { return (uint64_t(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x; }
bool on_a_stack(const void* address) { return size_t((const char*)address - stacks) < MOST_THREADS * STRIDE; }
Launch& current_launch() { return *launch; }

uint3 index_of(unsigned thread) {
    return {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / (blockDim.x * blockDim.y)};
}
uint3 block_index(uint64_t block) {
    return {unsigned(block % gridDim.x), unsigned(block / gridDim.x % gridDim.y),
            unsigned(block / gridDim.x / gridDim.y)};
}

// ------------------------------------------------------------------------------------------------------- faults

void fault(Kind kind, const char* format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(launch->message, sizeof launch->message, format, list);
    va_end(list);
    launch->kind = kind;
    inside = 1, on_fiber = false;                           // for a signal that comes before machine_launch goes on
    siglongjmp(home, 1);
}

Inside::Inside() { inside = 1; }
Inside::~Inside() {
    inside = 0;
    if (interrupted) fault(INTERRUPTED, "interrupted");
}

static const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGINT, SIGVTALRM}, SIGNAL_COUNT = 6;
static struct sigaction before[SIGNAL_COUNT];

// A thread that reads a variable until another one changes it (a volatile flag) makes no call in which the machine could
// notice. So a timer looks at it: registers and stack of a loop that does anything else are never twice the same.
static void look_for_spin(const ucontext_t& context) {
    static uint64_t known[64];
    static unsigned looks, again;
    static long long looked_at;
    if (looked_at != steps) looked_at = steps, looks = again = 0;
    uint64_t hash = 0xcbf29ce484222325;                     // FNV-1a, by words
    auto add = [&](const void* begin, const void* end) {
        for (auto word = (const uint64_t*)begin; word < end; word++) hash = (hash ^ *word) * 0x100000001b3;
    };
    const auto& registers = context.uc_mcontext.gregs;
    add(registers, registers + REG_EFL);
    add(context.uc_mcontext.fpregs->_xmm, context.uc_mcontext.fpregs->_xmm + 16);
    add((void*)(registers[REG_RSP] & ~7), stacks + (running + 1) * STRIDE);
    for (unsigned i = 0; i < std::min(looks, 64u); i++)
        if (known[i] == hash && ++again == SPIN_LOOKS)
            fault(BARRIER, SITE WHO "waits in a loop for a value that no thread of its block will write: here a thread "
                  "runs until it waits at a barrier, in a warp operation or with atomics",
                  site_of((void*)registers[REG_RIP]) + 1, WHO_IS(running));
    known[looks++ % 64] = hash;
}

static void on_signal(int signal, siginfo_t* info, void* context) {
    for (int i = 0; i < SIGNAL_COUNT; i++)
        if (SIGNALS[i] == signal && (!pthread_equal(pthread_self(), owner) || !on_fiber)) {
            bool asks = signal == SIGINT || signal == SIGVTALRM;
            if (asks && !pthread_equal(pthread_self(), owner)) pthread_kill(owner, signal);
            else if (signal == SIGINT) interrupted = 1;
            else if (signal == SIGVTALRM) return;
            else sigaction(signal, &before[i], nullptr);    // not the kernel's fault: let it happen again
            return;
        }
    if (signal == SIGINT) {
        interrupted = 1;
        if (inside) return;
        fault(INTERRUPTED, "interrupted");
    }
    if (signal == SIGVTALRM) {
        auto code = (void*)((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP];
        if (!inside && in_image(code)) look_for_spin(*(ucontext_t*)context);        // not in a function of the C library
        return;
    }
    uint32_t site = site_of((void*)((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP]) + 1;
    if (signal == SIGFPE || signal == SIGILL)
        fault(KERNEL, SITE "%s", site, signal == SIGFPE ? "division of an integer by zero" : "the kernel crashed");
    char* address = (char*)info->si_addr;
    if (info->si_code == SI_KERNEL)                         // x86-64 says no address for 16 bytes that are not aligned
        fault(ALIGNMENT, SITE WHO "takes a local variable at an address that is not a multiple of 16", site,
              WHO_IS(running));
    if (on_a_stack(address))
        fault(KERNEL, SITE "the local variables of a thread need more than %zu KB", site, STACK >> 10);
    char where[512];
    describe_address(address, where, sizeof where);
    fault(BOUNDS, SITE WHO "touches memory that no argument has: %s", site, WHO_IS(running), where);
}

// ----------------------------------------------------------------------------------------------------- the fibers

static unsigned next_ready() {                              // in this round's order; `count`: none is left
    while (position < count) {
        unsigned thread = order[position++];
        if (threads[thread].state == READY) return thread;
    }
    return count;
}

static void* enter(unsigned thread) {                       // the stack to go on with
    running = thread;
    threadIdx = threads[thread].index;
    steps++;
    return threads[thread].stack;
}

static void yield() {                                       // called by a thread: the next one, or the end of the round
    if (interrupted) fault(INTERRUPTED, "interrupted");
    void** mine = &threads[running].stack;
    unsigned next = next_ready();
    on_fiber = next < count;
    machine_switch(mine, on_fiber ? enter(next) : scheduler);
}

static void wait(State state, const char* what, Place place) {
    Thread& mine = threads[running];
    mine.state = state, mine.what = what, mine.place = place;
    spins = 0;
    yield();
}

static bool complete_warp(unsigned thread);

static void thread_main() {
    inside = 0;
    machine_kernel(launch->which, launch->arguments);
    inside = 1;
    threads[running].state = DONE;
    waits = 0, left--;
    unsigned first = running & ~31;
    for (unsigned i = first; i < first + 32 && i < count; i++)
        if (threads[i].state == IN_WARP) complete_warp(i);  // those that would have waited for this lane
    yield();
    __builtin_unreachable();
}

static void prepare(unsigned thread) {
    char* top = stacks + (thread + 1) * STRIDE - thread % 64 * 64;      // spread over the cache, which uses low bits
    void** stack = (void**)top - 2;
    *stack = (void*)thread_main;
    threads[thread].stack = stack - 6;                      // machine_switch pops six registers
    threads[thread].state = READY;
    threads[thread].copies.clear();
}

static bool run_round() {                                   // every thread that can, until it waits; false: none could
    position = 0;
    unsigned first = next_ready();
    if (first == count) return false;
    on_fiber = true;
    machine_switch(&scheduler, enter(first));
    inside = 1;
    if (interrupted) fault(INTERRUPTED, "interrupted");
    return true;
}

static uint64_t draw(uint64_t below) {                      // xorshift: Marsaglia 2003
    random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
    return (random_state >> 11) % below;
}

static void set_order(std::vector<unsigned>& order, unsigned size) {
    order.resize(size);
    for (unsigned i = 0; i < size; i++)
        order[i] = launch->order == BACKWARD ? size - 1 - i : i;
    if (launch->order == SHUFFLED)
        for (unsigned i = size; i > 1; i--) std::swap(order[i - 1], order[draw(i)]);
}

// --------------------------------------------------------------------------------------- when every thread waits

// "16 threads wait at a.cu:7 in __syncthreads(), 16 have returned", the first place first
static void who_waits(char* text, size_t room) {
    size_t used = 0;
    unsigned done = 0;
    std::vector<bool> told(count);
    for (unsigned i = 0; i < count; i++) {
        if (threads[i].state == DONE) done++;
        if (threads[i].state == DONE || told[i]) continue;
        unsigned same = 0;
        for (unsigned j = i; j < count; j++)
            if (threads[j].state != DONE && threads[j].place.line == threads[i].place.line &&
                !strcmp(threads[j].what, threads[i].what))
                same++, told[j] = true;
        if (used < room)
            used += snprintf(text + used, room - used, "%s%u of %u threads wait in %s of line %d", used ? ", " : "",
                             same, count, threads[i].what, threads[i].place.line);
    }
    if (done && used < room) snprintf(text + used, room - used, ", %u have returned", done);
}

[[noreturn]] static void stuck(const char* why, const Thread& where) {
    char text[2048];
    who_waits(text, sizeof text);
    fault(BARRIER, "%s:%d: %s in block (%u, %u, %u): %s", where.place.file, where.place.line, why, blockIdx.x,
          blockIdx.y, blockIdx.z, text);
}

static bool release_masks() {                               // lanes at the same __activemask() are active together
    bool any = false;
    for (unsigned i = 0; i < count; i++) {
        if (threads[i].state != AT_MASK) continue;
        unsigned mask = 0, first = i & ~31;
        auto with_me = [&](unsigned j) {
            return threads[j].state == AT_MASK && threads[j].place.line == threads[i].place.line;
        };
        for (unsigned j = first; j < first + 32 && j < count; j++)
            if (with_me(j)) mask |= 1u << (j - first);
        for (unsigned j = first; j < first + 32 && j < count; j++)
            if (mask >> (j - first) & 1) threads[j].state = READY, threads[j].mask = mask;
        any = true;
    }
    return any;
}

static void release_barrier() {                             // of all threads that have not returned: since Volta
    const Thread* first = nullptr;
    votes = {0, 1, 0};
    for (unsigned i = 0; i < count; i++) {
        const Thread& thread = threads[i];
        if (thread.state == IN_WARP) stuck("deadlock", thread);
        if (thread.state == DONE) continue;
        if (first && (first->place.line != thread.place.line ||
                      (first->place.file != thread.place.file && strcmp(first->place.file, thread.place.file))))
            stuck("threads wait at different barriers", *first);
        first = first ? first : &thread;
        votes.count += thread.predicate != 0, votes.all &= thread.predicate != 0, votes.any |= thread.predicate != 0;
    }
    check_barrier();
    if (launch->stop) {                                     // Python runs here, on the stack that it knows
        for (const SharedArray& a : shared_arrays)
            launch->shared_array(a.name, a.address, a.kind, a.size, a.bytes, a.shape.size(), a.shape.data());
        if (launch->stop(first->place.file, first->place.line, block_running())) fault(INTERRUPTED, "stopped");
    }
    for (unsigned i = 0; i < count; i++)
        if (threads[i].state != DONE) threads[i].state = READY;
    waits = 0;
}

static bool complete_warp(unsigned thread) {
    Thread& asks = threads[thread];
    Group group{};
    for (unsigned lane = 0, i = thread & ~31; lane < 32 && i < count; lane++, i++) {
        const Thread& other = threads[i];
        if (!(asks.mask >> lane & 1)) continue;
        if (other.state == DONE) {
            if (asks.resolve) check_absent(i, asks.place, asks.what, asks.mask);
            continue;
        }
        if (other.state != IN_WARP) return false;
        if (other.mask != asks.mask || other.resolve != asks.resolve) {
            if (!(other.mask >> (thread & 31) & 1)) return false;
            stuck(other.mask != asks.mask ? "lanes of a warp give different masks" :
                  "lanes of a warp do different things", asks);
        }
        group.lanes |= 1u << lane;
        group.brought[lane] = other.brought;
    }
    together_now = &asks;
    if (asks.resolve) asks.resolve(group);
    else check_warp_barrier(thread & ~31, group.lanes);
    for (unsigned lane = 0; lane < 32; lane++)
        if (group.lanes >> lane & 1) threads[(thread & ~31) + lane].state = READY;
    waits = 0;
    return true;
}

// ------------------------------------------------------------------------------ what a kernel calls (see machine.h)

Votes block_barrier(const char* what, Place place, int predicate) {
    Inside guard;
    threads[running].predicate = predicate;
    wait(AT_BARRIER, what, place);
    return votes;
}

void together(const char* what, Place place, unsigned mask, void (*resolve)(Group&), void* brought) {
    Inside guard;
    Thread& mine = threads[running];
    if (!(mask >> (running & 31) & 1))
        fault(BARRIER, "%s:%d: lane %u calls %s with the mask %#x, in which it is not", place.file, place.line,
              running & 31, what, mask);
    mine.state = IN_WARP, mine.what = what, mine.place = place;
    mine.mask = mask, mine.resolve = resolve, mine.brought = brought;
    if (!complete_warp(running)) wait(IN_WARP, what, place);
}

void takes_from_absent(int lane, int source) {
    unsigned there = (together_now - threads) / 32 * 32 + source;
    const char* why = !(together_now->mask >> source & 1) ? "is not in" :
                      there >= count ? "is beyond the end of the block, in spite of" : "has returned, in spite of";
    fault(BARRIER, "%s:%d: %s gives lane %d the value of lane %d, which %s the mask %#x: that value is undefined",
          together_now->place.file, together_now->place.line, together_now->what, lane, source, why,
          together_now->mask);
}

unsigned lanes_here(Place place) {
    Inside guard;
    wait(AT_MASK, "__activemask()", place);
    return threads[running].mask;
}

unsigned lane() { return running & 31; }
long long steps_so_far() { return steps; }

void pass() {
    Inside guard;
    yield();
}

void atomic_begins(const void* address, size_t bytes) {
    check_atomic(address, bytes, site_of(__builtin_return_address(0)));
}

// A thread that spins on one address without changing it yields to the others; if none of them makes progress, all are
// stuck: blocks run one after another, and a later one cannot help.
void atomic_ends(const void* address, bool same) {
    check_atomic_ends();
    if (!same || address != spun_at) {
        spun_at = address, spins = 0;
        waits = same ? waits : 0;
        return;
    }
    if (++spins < SPINS) return;
    Inside guard;
    spins = 0;
    if (++waits > PATIENCE)
        fault(BARRIER, SITE WHO "waits in a loop for a value that no thread of its block will write; other blocks "
              "cannot write it, because here they run one after another", site_of(__builtin_return_address(0)),
              WHO_IS(running));
    yield();
}

void fence() { check_fence(); }
bool is_local(const void* address) { return on_a_stack(address); }

void reads(const void* address, size_t bytes) { check_read(address, bytes, site_of(__builtin_return_address(0))); }

void copy_later(void* to, const void* from, int bytes, int kept) {
    Inside guard;
    uint32_t site = site_of(__builtin_return_address(0));
    if (size_t(to) % bytes || size_t(from) % bytes)
        fault(ALIGNMENT, SITE WHO "copies %d bytes from or to an address that is not a multiple of %d", site,
              WHO_IS(running), bytes, bytes);
    check_copy(to, from, bytes, kept, site);
    auto& groups = threads[running].copies;
    if (groups.empty()) groups.emplace_back();
    groups.back().push_back({(char*)to, (const char*)from, bytes, kept, false, site});
}

void commit_copies() { threads[running].copies.emplace_back(); }

void wait_for_copies(int groups_left) {
    Inside guard;
    auto& groups = threads[running].copies;
    while (!groups.empty() && int(groups.size()) - 1 > groups_left) {
        for (const Copy& copy : groups.front()) {
            memcpy(copy.to, copy.from, copy.kept);
            memset(copy.to + copy.kept, 0, copy.bytes - copy.kept);
            check_landing(copy.to, copy.bytes, copy.site);
        }
        groups.erase(groups.begin());
    }
}

void shared_array(const char* name, const void* address, char kind, size_t size, size_t bytes, size_t axes,
                  const size_t* shape) {
    Inside guard;
    for (const SharedArray& known : shared_arrays)
        if (known.address == address) return;
    shared_arrays.push_back({name, address, kind, size, bytes, {shape, shape + axes}});
}

// ------------------------------------------------------------------------------------------------------ a launch

static void run_block() {
    check_block();
    clear_shared();
    for (unsigned i = 0; i < count; i++) prepare(i);
    waits = 0, spun_at = nullptr;
    for (left = count; left;) {
        if (launch->order == SHUFFLED) set_order(order, count);
        if (!run_round() && !release_masks()) release_barrier();
    }
    check_block_ends();
}

static void run_grid() {                                    // a grid may have more than 2^32 blocks
    static std::vector<unsigned> shuffled;
    uint64_t blocks = uint64_t(gridDim.x) * gridDim.y * gridDim.z;
    set_order(order, count);
    for (unsigned i = 0; i < count; i++) threads[i].index = index_of(i);
    if (launch->order == SHUFFLED) set_order(shuffled, blocks);
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t block = launch->order == SHUFFLED ? shuffled[i] : launch->order == BACKWARD ? blocks - 1 - i : i;
        blockIdx = block_index(block);
        run_block();
    }
}

static void make_stacks() {
    stacks = (char*)launch->stacks;                         // of an earlier launch, maybe of another library
    if (stacks) return;
    void* memory = mmap(nullptr, MOST_THREADS * STRIDE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) abort();
    launch->stacks = stacks = (char*)memory;
    for (size_t i = 0; i < MOST_THREADS; i++) mprotect(stacks + i * STRIDE, GUARD, PROT_NONE);
}

}  // namespace machine

using namespace machine;

long long clock64() { return steps_so_far(); }

extern "C" __attribute__((visibility("default"))) int machine_launch(Launch* asked) {
    static char signal_stack[64 << 10];
    launch = asked;
    gridDim = {asked->grid[0], asked->grid[1], asked->grid[2]};
    blockDim = {asked->block[0], asked->block[1], asked->block[2]};
    count = blockDim.x * blockDim.y * blockDim.z;
    random_state = asked->seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du;
    interrupted = 0, inside = 1, on_fiber = false, owner = pthread_self();
    shared_arrays.clear();
    make_stacks();
    find_image();
    check_launch();

    stack_t mine{}, old{};
    mine.ss_sp = signal_stack, mine.ss_size = sizeof signal_stack;
    sigaltstack(&mine, &old);
    struct sigaction action{};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    for (int i = 0; i < SIGNAL_COUNT; i++) sigaction(SIGNALS[i], &action, &before[i]);
    itimerval tick{{0, TICK}, {0, TICK}}, timer;
    setitimer(ITIMER_VIRTUAL, &tick, &timer);
    if (sigsetjmp(home, 1) == 0) run_grid();
    on_fiber = false;
    setitimer(ITIMER_VIRTUAL, &timer, nullptr);
    if (before[5].sa_handler == SIG_DFL) before[5].sa_handler = SIG_IGN;    // or a late tick ends the process
    for (int i = 0; i < SIGNAL_COUNT; i++) sigaction(SIGNALS[i], &before[i], nullptr);
    if (!(old.ss_flags & SS_DISABLE)) sigaltstack(&old, nullptr);
    else mine.ss_flags = SS_DISABLE, sigaltstack(&mine, nullptr);
    check_launch_ends();
    fflush(stdout);
    return interrupted ? INTERRUPTED : asked->kind;
}

// Whether Ctrl-C is Python's, which calls this in `stop` while it waits for a command, or ends the kernel.
extern "C" __attribute__((visibility("default"))) void machine_ctrl_c(int pythons) {
    static struct sigaction ours;
    if (pythons) sigaction(SIGINT, &before[4], &ours);
    else sigaction(SIGINT, &ours, nullptr);
}

extern "C" __attribute__((visibility("default"))) void machine_signature(int which, char* text, size_t room) {
    machine_parameters(which, text, room);
}

// What __launch_bounds__ of a kernel says, 0 if it says nothing.
extern "C" __attribute__((visibility("default"))) long machine_bounds(int which) { return machine_most_threads(which); }

// Memory for `bytes` that ends at most 15 bytes before an inaccessible page, and begins at `phase` modulo 16.
extern "C" __attribute__((visibility("default"))) void* machine_allocate(size_t bytes, size_t phase) {
    size_t page = 4096, pages = (bytes + 16 + page - 1) / page;
    char* memory = (char*)mmap(nullptr, (pages + 2) * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    mprotect(memory + page, pages * page, PROT_READ | PROT_WRITE);
    char* begin = memory + (pages + 1) * page - bytes;
    begin -= (size_t(begin) - phase) % 16;
    memset(memory + page, 0xff, pages * page);
    return begin;
}

extern "C" __attribute__((visibility("default"))) void machine_free(void* begin, size_t bytes) {
    size_t page = 4096, pages = (bytes + 16 + page - 1) / page;
    size_t end = (size_t(begin) + bytes + page - 1) / page * page;
    munmap((void*)(end - (pages + 1) * page), (pages + 2) * page);
}

extern "C" void __assert_fail(const char* what, const char* file, unsigned line, const char*) noexcept {
    fault(KERNEL, "%s:%u: assert(%s) does not hold for thread (%u, %u, %u) of block (%u, %u, %u)", file, line, what,
          threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z);
}
