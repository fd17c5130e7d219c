// Requests: what the lanes of a warp do to memory together, and how much of a GPU's time that takes.
#include "check.h"

#include <algorithm>
#include <unordered_map>
#include <vector>

namespace machine {

static std::vector<Request> requests[32];                   // of each warp, since its lanes last met
static std::unordered_map<uint64_t, Line> lines;

void add_request(unsigned warp, Request request) { requests[warp].push_back(request); }

void forget_requests() {
    lines.clear();
    for (auto& list : requests) list.clear();
}

// 32-byte sectors that a request of global memory moves
static void count_sectors(Line& line, const Request* r, size_t lanes) {
    std::vector<uint64_t> sectors;
    for (size_t i = 0; i < lanes; i++)
        for (uint64_t s = r[i].address / 32; s <= (r[i].address + r[i].bytes - 1) / 32; s++) sectors.push_back(s);
    std::sort(sectors.begin(), sectors.end());
    line.passes += std::unique(sectors.begin(), sectors.end()) - sectors.begin();
    line.ideal += (lanes * r->bytes + 31) / 32;
}

// Turns of shared memory: 32 banks of 4 bytes, each serves one word per turn. 8 and 16 bytes per lane are served half a
// warp, or a quarter, at a time.
static void count_turns(Line& line, const Request* r, size_t lanes) {
    size_t at_once = r->bytes <= 4 ? 32 : r->bytes <= 8 ? 16 : 8;
    for (size_t part = 0; part < 32; part += at_once) {
        std::vector<uint64_t> words;
        for (size_t i = 0; i < lanes; i++)
            if (r[i].lane >= part && r[i].lane < part + at_once)
                for (uint64_t w = r[i].address / 4; w <= (r[i].address + r[i].bytes - 1) / 4; w++) words.push_back(w);
        std::sort(words.begin(), words.end());
        words.erase(std::unique(words.begin(), words.end()), words.end());
        uint64_t in_bank[32] = {}, most = 0;
        for (uint64_t w : words) most = std::max(most, ++in_bank[w % 32]);
        line.passes += most;
        line.ideal += !words.empty();
    }
}

// A lane's n-th execution of an instruction belongs together with the n-th of the other lanes.
void count_requests(unsigned warp) {
    std::vector<Request>& list = requests[warp];
    std::stable_sort(list.begin(), list.end(), [](const Request& a, const Request& b) {
        return a.site != b.site ? a.site < b.site : a.lane < b.lane;
    });
    std::vector<std::pair<uint32_t, Request>> turns;
    uint32_t turn = 0;
    for (size_t i = 0; i < list.size(); i++) {
        bool again = i && list[i].site == list[i - 1].site && list[i].lane == list[i - 1].lane &&
                     list[i].kind == list[i - 1].kind;
        turn = again ? turn + 1 : 0;
        turns.push_back({turn, list[i]});
    }
    std::stable_sort(turns.begin(), turns.end(), [](const auto& a, const auto& b) {
        return a.second.site != b.second.site ? a.second.site < b.second.site : a.first < b.first;
    });
    std::vector<Request> together;
    for (size_t i = 0; i < turns.size();) {
        together.clear();
        size_t j = i;
        while (j < turns.size() && turns[j].first == turns[i].first && turns[j].second.site == turns[i].second.site)
            together.push_back(turns[j++].second);
        const Request& first = together[0];
        Line& line = lines[uint64_t(first.site) << 2 | first.kind];
        line.site = first.site, line.shared = first.shared, line.writes = first.kind != READ, line.bytes = first.bytes;
        line.atomic = first.kind == ATOMIC;
        line.requests++, line.accesses += together.size();
        (first.shared ? count_turns : count_sectors)(line, together.data(), together.size());
        i = j;
    }
    list.clear();
}

}  // namespace machine

// Writes the lines of the last launch to `list`, `room` of them at most. Returns how many there are.
extern "C" __attribute__((visibility("default"))) size_t machine_lines(machine::Line* list, size_t room) {
    for (const auto& entry : machine::lines)
        if (room) *list++ = entry.second, room--;
    return machine::lines.size();
}
