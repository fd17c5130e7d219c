// Between machine.cpp, which runs the threads, and check.cpp, requests.cpp and sanitizer.cpp, which watch them.
#pragma once
#include "machine.h"

namespace machine {

struct Buffer {                                             // a pointer argument's array, or a __shared__ array
    char* begin;                                            // of a __shared__ array: its offset
    size_t bytes;
    size_t phase;                                           // of `begin` on a GPU, modulo 256
    const char* name;
    int constant;                                           // whether the kernel has no pointer by which to write it
};

enum Order { FORWARD, BACKWARD, SHUFFLED };

struct Launch {                                             // cpu.py has the same structure
    unsigned grid[3], block[3];
    size_t dynamic;                                         // bytes of dynamic shared memory
    void** arguments;
    int which, order, check;                                // which of the library's kernels
    uint64_t seed;
    const Buffer* buffers;
    size_t buffer_count;
    const Buffer* shared;
    size_t shared_count;
    const size_t* flags;                                    // offsets in shared memory that are g++'s, not the kernel's
    size_t flag_count;
    int (*stop)(const char* file, int line, uint64_t block);        // at every barrier; other than 0: no further
    void (*shared_array)(const char* name, const void* address, char kind, size_t size, size_t bytes, size_t axes,
                         const size_t* shape);
    void* stacks;                                           // of the threads, made by the first launch
    int kind;
    char message[4096];
};

struct Line {                                               // what one instruction did to memory
    uint32_t site;
    char shared, writes, bytes, atomic;
    uint64_t requests, accesses, passes, ideal;             // passes: sectors of global, turns of shared memory
};

struct Absent {                                             // a lane that a mask names, and that has returned
    const char *file, *what;
    int line;
    unsigned mask, lane;
    uint32_t site;                                          // of the last access that it made
};

enum AccessKind : uint8_t { READ, WRITE, ATOMIC };
struct Request { uint32_t site; uint8_t lane, bytes; AccessKind kind; bool shared; uint64_t address; };

struct Inside {                                             // where Ctrl-C must wait for the machine's own work
    Inside();
    ~Inside();
};

// A place in the compiled kernel, whose file and line Python looks up; and the thread that did something there.
#define SITE "<%x>: "
#define AT_SITE "<%x>"
#define WHO "thread (%u, %u, %u) of block (%u, %u, %u) "
#define WHO_IS(thread) machine::index_of(thread).x, machine::index_of(thread).y, machine::index_of(thread).z, \
                       blockIdx.x, blockIdx.y, blockIdx.z

bool checking();
bool in_machine();                                          // not in the kernel's own code
unsigned thread_running();
uint64_t block_running();
bool on_a_stack(const void* address);
uint3 index_of(unsigned thread);
uint3 block_index(uint64_t block);
Launch& current_launch();

void find_image();                                          // of the kernel's library, and the thread's shared memory
uint32_t site_of(const void* code);
bool in_image(const void* code);
void clear_shared();
void describe_address(const char* address, char* text, size_t room);

void access(const void* address, size_t bytes, AccessKind kind, uint32_t site, bool pending = false);
bool watches_kernel();                                      // now, for what its own code does

void add_request(unsigned warp, Request request);
void count_requests(unsigned warp);                         // its lanes have met: their accesses belong together
void forget_requests();

void check_launch();
void check_launch_ends();
void check_block();
void check_block_ends();
void check_barrier();
void check_absent(unsigned thread, Place place, const char* what, unsigned mask);
void check_warp_barrier(unsigned first, unsigned lanes);
void check_atomic(const void* address, size_t bytes, uint32_t site);
void check_atomic_ends();
void check_fence();
void check_read(const void* address, size_t bytes, uint32_t site);
void check_copy(const void* to, const void* from, int bytes, int kept, uint32_t site);
void check_landing(const void* to, int bytes, uint32_t site);

}  // namespace machine
