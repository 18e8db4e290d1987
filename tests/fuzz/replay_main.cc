// Runs a fuzz target over the files of the directories given, where libFuzzer is not built in: the corpus as
// a regression test. Fails if a directory is missing or holds no file; the target itself aborts on a finding.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes);

namespace {

namespace fs = std::filesystem;

std::vector<fs::path> files_of(const fs::path& directory, std::error_code& error) {
  std::vector<fs::path> files;
  for (fs::directory_iterator entry(directory, error); !error && entry != fs::directory_iterator();
       entry.increment(error))
    if (entry->is_regular_file(error)) files.push_back(entry->path());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s CORPUS_DIRECTORY...\n", argv[0]);
    return 2;
  }
  for (int index = 1; index < argc; ++index) {
    std::error_code error;
    const std::vector<fs::path> files = files_of(argv[index], error);
    if (error || files.empty()) {
      std::fprintf(stderr, "%s: %s\n", argv[index], error ? error.message().c_str() : "no files");
      return 1;
    }
    for (const fs::path& file : files) {
      std::ifstream stream(file, std::ios::binary);
      const std::string input{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
      if (!stream.is_open() || stream.bad()) {
        std::fprintf(stderr, "%s: cannot be read\n", file.c_str());
        return 1;
      }
      std::fprintf(stderr, "%s\n", file.c_str());
      // Memory of its exact size, so that a read beyond it is seen.
      const std::vector<uint8_t> exact(input.begin(), input.end());
      LLVMFuzzerTestOneInput(exact.data(), exact.size());
    }
    std::printf("%s: %zu inputs\n", argv[index], files.size());
  }
  return 0;
}
