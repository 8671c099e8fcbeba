// Counting words: texts → of each, which words it has and how often. What kernels/wordcount.py calls.
//
// A word is a run of ASCII letters and digits and of bytes above 127; letters count as lower case.
// What a word stands for (a hash of its stem) is learned from the caller, who is told which words
// are not known yet: stemming and hashing have one implementation, and it is not here.
#include <algorithm>
#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>

#include "headrace.h"

namespace {

// 0 = no part of a word, else the byte in lower case.
struct Letters {
  uint8_t of[256];
  constexpr Letters() : of() {
    for (int c = 0; c < 256; c++) {
      bool word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c >= 128;
      of[c] = c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : word ? (uint8_t)c : 0;
    }
  }
};
constexpr Letters kLetters;

struct Entry {
  uint64_t hash;
  int64_t at;
  int32_t size;
  int32_t stem;  // < 0 = a free place
};

constexpr uint64_t kSeed = 0xcbf29ce484222325u, kPrime = 0x100000001b3u;  // FNV-1a

uint64_t spread(uint64_t h) { return (h ^ (h >> 32)) * 0x9e3779b97f4a7c15u; }

}  // namespace

struct hr_words {
  std::vector<Entry> table = std::vector<Entry>(1 << 12, Entry{0, 0, 0, -1});
  size_t known = 0;
  std::string letters;  // of all known words, end to end
  std::vector<uint64_t> stems;
  std::unordered_map<uint64_t, int32_t> stem_of;
  // Of each stem: the chunk that it was last seen in, and where that chunk's counts of it are.
  std::vector<int64_t> seen_in;
  std::vector<int32_t> slot;

  Entry& find(uint64_t hash, const char* word, size_t size) {
    size_t mask = table.size() - 1;
    for (size_t i = spread(hash) >> 20 & mask;; i = (i + 1) & mask) {
      Entry& e = table[i];
      if (e.stem < 0) return e;
      if (e.hash == hash && (size_t)e.size == size &&
          memcmp(letters.data() + e.at, word, size) == 0)
        return e;
    }
  }

  void grow() {
    std::vector<Entry> old(2 * table.size(), Entry{0, 0, 0, -1});
    old.swap(table);
    for (const Entry& e : old)
      if (e.stem >= 0) find(e.hash, letters.data() + e.at, (size_t)e.size) = e;
  }

  void learn(const char* word, size_t size, uint64_t stem) {
    uint64_t hash = kSeed;
    for (size_t i = 0; i < size; i++) hash = (hash ^ (uint8_t)word[i]) * kPrime;
    Entry& e = find(hash, word, size);
    if (e.stem >= 0) return;
    auto [place, fresh] = stem_of.try_emplace(stem, (int32_t)stems.size());
    if (fresh) {
      stems.push_back(stem);
      seen_in.push_back(-1);
      slot.push_back(0);
    }
    e = {hash, (int64_t)letters.size(), (int32_t)size, place->second};
    letters.append(word, size);
    if (2 * ++known > table.size()) grow();
  }
};

extern "C" {

hr_words* hr_words_new(void) { return new hr_words(); }
void hr_words_free(hr_words* words) { delete words; }
int64_t hr_words_bytes(const hr_words* words) {
  return (int64_t)(words->letters.size() + words->table.size() * sizeof(Entry));
}

void hr_words_learn(hr_words* words, int64_t count, const char* text, const int64_t* ends,
                    const uint64_t* stems) {
  for (int64_t i = 0, at = 0; i < count; at = ends[i++])
    words->learn(text + at, (size_t)(ends[i] - at), stems[i]);
}

int64_t hr_words_count(hr_words* words, int64_t chunks, const char* text, const int64_t* ends,
                       int32_t* lengths, int64_t* sizes, uint8_t* packed, int64_t* unknown) {
  std::fill(words->seen_in.begin(), words->seen_in.end(), -1);
  std::vector<uint64_t> stems;
  std::vector<int32_t> times[2];
  std::string word;
  int64_t missing = 0, at = 0, out = 0;
  for (int64_t chunk = 0; chunk < chunks; chunk++) {
    int32_t length = 0;
    stems.clear();
    for (auto& t : times) t.clear();
    for (int part = 0; part < 2; part++) {
      for (int64_t end = ends[2 * chunk + part]; at < end;) {
        if (!kLetters.of[(uint8_t)text[at]]) {
          at++;
          continue;
        }
        int64_t first = at;
        uint64_t hash = kSeed;
        word.clear();
        for (; at < end; at++) {
          uint8_t c = kLetters.of[(uint8_t)text[at]];
          if (!c) break;
          word.push_back((char)c);
          hash = (hash ^ c) * kPrime;
        }
        length++;
        const Entry& e = words->find(hash, word.data(), word.size());
        if (e.stem < 0) {
          unknown[2 * missing] = first;
          unknown[2 * missing++ + 1] = at;
          continue;
        }
        if (words->seen_in[e.stem] != chunk) {
          words->seen_in[e.stem] = chunk;
          words->slot[e.stem] = (int32_t)stems.size();
          stems.push_back(words->stems[e.stem]);
          for (auto& t : times) t.push_back(0);
        }
        times[part][words->slot[e.stem]]++;
      }
    }
    lengths[chunk] = length;
    memcpy(packed + out, stems.data(), 8 * stems.size());
    out += 8 * (int64_t)stems.size();
    for (auto& t : times)
      for (int32_t n : t) packed[out++] = (uint8_t)std::min(n, 255);
    sizes[chunk] = out;
  }
  return missing;
}

}  // extern "C"
