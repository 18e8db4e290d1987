#include "cli/complete.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

namespace fdbnbd::cli {

namespace {

using Texts = std::vector<std::string>;

const CLI::Option* find_option(const CLI::App& verb, const std::string& name) {
  for (const CLI::App* app = &verb; app != nullptr; app = app->get_parent()) {
    if (const CLI::Option* option = app->get_option_no_throw(name)) return option;
  }
  return nullptr;
}

std::vector<const CLI::App*> verbs_below(const CLI::App& verb) {
  return verb.get_subcommands([](const CLI::App*) { return true; });
}

const CLI::App* find_verb(const CLI::App& verb, const std::string& name) {
  for (const CLI::App* below : verbs_below(verb)) {
    if (below->check_name(name)) return below;
  }
  return nullptr;
}

// "group create"; empty for the program.
std::string full_name(const CLI::App& verb) {
  if (verb.get_parent() == nullptr) return "";
  const std::string above = full_name(*verb.get_parent());
  return above.empty() ? verb.get_name() : above + " " + verb.get_name();
}

// The positional that the next argument is for, if there is one.
const CLI::Option* next_positional(const CommandLine& line) {
  auto index = static_cast<int>(line.arguments.size());
  for (const CLI::Option* option : line.verb->get_options()) {
    if (!option->get_positional()) continue;
    const int count = option->get_items_expected_max();
    if (index < count) return option;
    index -= count;
  }
  return nullptr;
}

// Of a longer text, what fits beside a candidate.
std::string beginning(const std::string& text) {
  return text.substr(0, std::min({text.find(". "), text.find(": "), text.find("; ")}));
}

Completion words(const Texts& texts) {
  Completion completion;
  for (const std::string& text : texts) completion.candidates.push_back({text});
  return completion;
}

Completion files() {
  Completion completion;
  completion.takes_files = true;
  return completion;
}

Completion verbs(const CLI::App& verb) {
  Completion completion;
  for (const CLI::App* below : verbs_below(verb))
    completion.candidates.push_back({below->get_name(), beginning(below->get_description())});
  return completion;
}

Completion flags(const CLI::App& verb) {
  Completion completion;
  for (const CLI::App* app = &verb; app != nullptr; app = app->get_parent()) {
    for (const CLI::Option* option : app->get_options()) {
      for (const std::string& name : option->get_lnames()) {
        const bool is_there = std::ranges::any_of(
            completion.candidates, [&](const Candidate& one) { return one.text == "--" + name; });
        if (!is_there) completion.candidates.push_back({"--" + name, beginning(option->get_description())});
      }
    }
  }
  return completion;
}

enum class Points { volumes, snapshots, both };

Completion volume_names(NameSource& names, Points points) {
  Texts texts;
  for (const volume::VolumeInfo& volume : names.volumes()) {
    if (points != Points::snapshots) texts.push_back(volume.name);
    if (points == Points::volumes) continue;
    for (const auto& snapshot : volume.snapshots) texts.push_back(volume.name + '@' + snapshot.name);
  }
  return words(texts);
}

// What names of new snapshots begin with.
Completion stems(Texts texts) {
  for (std::string& text : texts) text += '@';
  Completion completion = words(texts);
  completion.goes_on = true;
  return completion;
}

Completion volume_stems(NameSource& names) {
  Texts texts;
  for (const volume::VolumeInfo& volume : names.volumes()) texts.push_back(volume.name);
  return stems(std::move(texts));
}

// "@SNAP" or "SNAP" of the volume that the first argument names.
Completion snapshots_of(const CommandLine& line, NameSource& names, std::string_view before) {
  if (line.arguments.empty()) return {};
  const std::string name = line.arguments.front().substr(0, line.arguments.front().find('@'));
  Texts texts;
  for (const volume::VolumeInfo& volume : names.volumes()) {
    if (volume.name != name) continue;
    for (const auto& snapshot : volume.snapshots) texts.push_back(std::string(before) + snapshot.name);
  }
  return words(texts);
}

Completion label_keys(const CommandLine& line, NameSource& names) {
  Texts texts;
  for (const volume::VolumeInfo& volume : names.volumes()) {
    if (volume.name != line.arguments.front()) continue;
    for (const auto& [key, value] : volume.labels) texts.push_back(key);
  }
  return words(texts);
}

Completion trash_names(NameSource& names) {
  std::map<std::string, int> counts;
  const auto entries = names.trash();
  for (const volume::TrashEntry& entry : entries) ++counts[entry.name];
  Completion completion;
  for (const volume::TrashEntry& entry : entries) {
    if (counts[entry.name] == 1) {
      completion.candidates.push_back({entry.name});
    } else {
      completion.candidates.push_back({std::to_string(entry.id), entry.name});
    }
  }
  return completion;
}

enum class GroupPoints { groups, snapshots, stems };

Completion group_names(NameSource& names, GroupPoints points) {
  Texts texts;
  for (const volume::GroupInfo& group : names.groups()) {
    if (points != GroupPoints::snapshots) {
      texts.push_back(group.name);
      continue;
    }
    for (const auto& snapshot : group.snapshots) texts.push_back(group.name + '@' + snapshot.name);
  }
  return points == GroupPoints::stems ? stems(std::move(texts)) : words(texts);
}

// A store's URL: its kind, then a path.
Completion stores(const std::string& current) {
  if (current.find(':') != std::string::npos) return files();
  Completion completion = words({"rocksdb:", "fdb:", "control:", "memory:"});
  completion.goes_on = true;
  return completion;
}

Completion nested_verbs(const CommandLine& line) {
  const CLI::App* verb = line.verb;
  while (verb->get_parent() != nullptr) verb = verb->get_parent();
  for (const std::string& name : line.arguments) {
    verb = find_verb(*verb, name);
    if (verb == nullptr) return {};
  }
  return verbs(*verb);
}

Completion argument(const CommandLine& line, const CLI::Option& positional, const std::string& current,
                    NameSource& names) {
  const std::string name = positional.get_name(true);
  const std::string verb = full_name(*line.verb);
  if (name == "VOL") {
    const bool is_new = verb == "create" || verb == "import";
    const bool is_elsewhere = verb == "migrate";
    return is_new || is_elsewhere ? Completion{} : volume_names(names, Points::volumes);
  }
  if (name.starts_with("VOL[@")) return volume_names(names, Points::both);
  if (name == "VOL@SNAP")
    return verb == "snap" ? volume_stems(names) : volume_names(names, Points::snapshots);
  if (name == "@B") return snapshots_of(line, names, "@");
  if (name == "KEY") return label_keys(line, names);
  if (name == "NAME|ID") return trash_names(names);
  if (name == "GROUP") return verb == "group create" ? Completion{} : group_names(names, GroupPoints::groups);
  if (name == "GROUP@SNAP")
    return group_names(names, verb == "group snap" ? GroupPoints::stems : GroupPoints::snapshots);
  if (name == "DEVICE|VOL") return current.starts_with('/') ? files() : volume_names(names, Points::both);
  if (name == "FILE" || name == "DEVICE") return files();
  if (name == "SRC" || name == "DST") return stores(current);
  if (name == "SHELL") return words({"bash", "zsh", "fish"});
  if (name == "VERB") return nested_verbs(line);
  return {};
}

Completion value(const CommandLine& line, const CLI::Option& option, int index, const std::string& current,
                 NameSource& names) {
  static const std::map<std::string, Texts, std::less<>> kWords = {
      {"--compression", {"none", "lz4", "zstd"}},
      {"--format", {"auto", "raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc"}},
      {"--block-size", {"4K", "8K", "16K", "32K", "64K"}},
      {"--load", {"read", "randread", "write", "randwrite"}},
      {"--log-level", {"debug", "info", "warning", "error"}},
      {"--tls", {"off", "on", "require"}},
  };
  const std::string name = option.get_name();
  if (const auto found = kWords.find(name); found != kWords.end()) return words(found->second);
  if (name == "--store") return stores(current);
  if (name == "--from") return snapshots_of(line, names, "");
  if (name == "--config" || name == "--control") return files();
  // The cluster file; the disk's name is not known here.
  if (name.starts_with("--from-")) return index == 0 ? files() : Completion{};
  return {};
}

}  // namespace

CommandLine read_command_line(const CLI::App& app, const std::vector<std::string>& words) {
  CommandLine line;
  line.verb = &app;
  for (const std::string& word : words) {
    if (line.awaiting != nullptr) {
      line.options.try_emplace(line.awaiting->get_name(), word);
      if (++line.awaited_index >= line.awaiting->get_items_expected_min()) line.awaiting = nullptr;
    } else if (!line.options_ended && word == "--") {
      line.options_ended = true;
    } else if (!line.options_ended && word.starts_with("--")) {
      const size_t equals = word.find('=');
      const CLI::Option* option = find_option(*line.verb, word.substr(0, equals));
      if (option == nullptr || option->get_items_expected_min() == 0) continue;
      if (equals != std::string::npos) {
        line.options.try_emplace(option->get_name(), word.substr(equals + 1));
      } else {
        line.awaiting = option;
        line.awaited_index = 0;
      }
    } else if (!line.options_ended && word.starts_with('-') && word != "-") {
      continue;
    } else if (const CLI::App* below = line.arguments.empty() ? find_verb(*line.verb, word) : nullptr) {
      line.verb = below;
    } else {
      line.arguments.push_back(word);
    }
  }
  return line;
}

Completion complete(const CommandLine& line, const std::string& current, NameSource& names) {
  if (line.awaiting != nullptr) return value(line, *line.awaiting, line.awaited_index, current, names);
  if (!line.options_ended && current.starts_with('-')) {
    const size_t equals = current.find('=');
    if (equals == std::string::npos) return flags(*line.verb);
    const std::string before = current.substr(0, equals + 1);
    const CLI::Option* option = find_option(*line.verb, current.substr(0, equals));
    if (option == nullptr) return {};
    Completion completion = value(line, *option, 0, current.substr(equals + 1), names);
    for (Candidate& candidate : completion.candidates) candidate.text.insert(0, before);
    return completion;
  }
  if (!verbs_below(*line.verb).empty()) return line.arguments.empty() ? verbs(*line.verb) : Completion{};
  const CLI::Option* positional = next_positional(line);
  if (positional == nullptr) return {};
  Completion completion = argument(line, *positional, current, names);
  // Of several names each is given once.
  const std::set<std::string> given(line.arguments.begin(), line.arguments.end());
  if (positional->get_items_expected_max() > 1 && positional->get_name(true) != "VERB")
    std::erase_if(completion.candidates, [&](const Candidate& one) { return given.contains(one.text); });
  return completion;
}

}  // namespace fdbnbd::cli
