#pragma once

#include <map>
#include <string>
#include <vector>

#include "volume/store.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

// What a word of the command line may become. The shells ask for it through the scripts of completion.h.

namespace fdbnbd::cli {

// What stands on the command line before the word that is completed.
struct CommandLine {
  const CLI::App* verb = nullptr;              // the innermost one, or the program
  std::vector<std::string> arguments;          // behind it
  const CLI::Option* awaiting = nullptr;       // the option that takes the next word
  int awaited_index = 0;                       // which of its values that is
  bool options_ended = false;                  // by "--"
  std::map<std::string, std::string> options;  // "--store" -> the first value
};

// `words` are those behind the program's name. `app` outlives the result.
CommandLine read_command_line(const CLI::App& app, const std::vector<std::string>& words);

struct Candidate {
  std::string text;
  std::string description = {};

  friend bool operator==(const Candidate&, const Candidate&) = default;
};

struct Completion {
  std::vector<Candidate> candidates;
  bool takes_files = false;  // also the names of files
  bool goes_on = false;      // no candidate is a whole word
};

// The names in the store that the command line is about; empty where it cannot be asked.
class NameSource {
 public:
  virtual ~NameSource() = default;
  virtual std::vector<volume::VolumeInfo> volumes() = 0;
  virtual std::vector<volume::TrashEntry> trash() = 0;
  virtual std::vector<volume::GroupInfo> groups() = 0;
};

// What `current`, the beginning of a word, may become. Candidates may begin otherwise.
Completion complete(const CommandLine& line, const std::string& current, NameSource& names);

}  // namespace fdbnbd::cli
