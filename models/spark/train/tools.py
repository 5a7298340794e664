"""Tool calls in Qwen3's format, and small JSON objects read from a sentence."""

import json

from values import ANIMALS, COLORS, DAYS, EVENTS, ITEMS, JOBS, LANGUAGES, PRODUCTS

# name | description | parameters `name:type:kind` | requests
CONCRETE = [line.split(" | ") for line in """
get_weather | Get the current weather for a city. | city:string:place | What is the weather in {city}?;How is the weather in {city}?;How is the weather in {city} today?;What's the weather in {city} now?;What is the weather in {city} today?;Is it raining in {city}?;Weather in {city}?;What's the weather like in {city}?;Do I need an umbrella in {city}?;Tell me the weather in {city}.
get_forecast | Get the weather forecast for some days. | city:string:place;days:integer:small | What is the forecast for {city} for {days} days?;Give me a {days} day forecast for {city}.;Forecast for {city}, {days} days.
get_time | Get the current time in a city. | city:string:place | What time is it in {city}?;Tell me the time in {city}.;What is the time in {city}?;Current time in {city}?
get_temperature | Get the temperature in a city. | city:string:place | How warm is it in {city}?;What is the temperature in {city}?;How cold is it in {city}?;Temperature in {city}?
get_population | Get the population of a city. | city:string:place | How many people live in {city}?;What is the population of {city}?;Population of {city}?
book_flight | Book a flight between two cities. | origin:string:place;destination:string:place | Book a flight from {origin} to {destination}.;I want to fly from {origin} to {destination}.;Get me a flight from {origin} to {destination}.
get_distance | Get the distance between two places. | from:string:place;to:string:place | How far is it from {from} to {to}?;What is the distance from {from} to {to}?
set_timer | Set a timer. | minutes:integer:number | Set a timer for {minutes} minutes.;Start a {minutes} minute timer.;Wake me in {minutes} minutes.;Timer for {minutes} minutes.
turn_on | Turn on a device. | device:string:product | Turn on the {device}.;Switch on the {device}.;Switch the {device} on.
turn_off | Turn off a device. | device:string:product | Turn off the {device}.;Switch off the {device}.;Switch the {device} off.
play_music | Play music by an artist. | artist:string:name | Play music by {artist}.;Play something by {artist}.;I want to listen to {artist}.
send_message | Send a message to a person. | to:string:name;text:string:words | Send {to} the message {text}.;Send a message to {to}: {text};Tell {to}: {text};Text {to}: {text}
call_person | Call a person on the phone. | name:string:name | Call {name}.;Phone {name}.;Give {name} a call.;Please call {name} now.
add_event | Add an event to the calendar. | event:string:event;day:string:day | Add a {event} on {day}.;Put the {event} on {day} in my calendar.;Schedule a {event} for {day}.
add_to_list | Add an item to the shopping list. | item:string:item | Add {item} to my shopping list.;Put {item} on the list.;I need to buy {item}.
order_item | Order a number of items. | item:string:item;quantity:integer:number | Order {quantity} {item}.;I want to order {quantity} {item}.;Buy {quantity} {item}.;Get me {quantity} {item}.
search_web | Search the web. | query:string:words | Search the web for {query}.;Search for {query}.;Google {query}.;Look up {query} on the web.
translate | Translate a word to another language. | text:string:word;language:string:language | Translate {text} into {language}.;Translate {text} to {language}.;How do you say {text} in {language}?
define_word | Look up the definition of a word. | word:string:word | What does {word} mean?;Define {word}.;Look up the word {word}.;What is the definition of {word}?
get_price | Get the price of a product. | product:string:product | How much is the {product}?;What does a {product} cost?;What is the price of the {product}?;Price of a {product}?
convert_currency | Convert an amount of money. | amount:integer:number;currency:string:currency | Convert {amount} dollars to {currency}.;How much is {amount} dollars in {currency}?;Change {amount} dollars into {currency}.
calculate | Evaluate an arithmetic expression. | expression:string:expression | Calculate {expression}.;Compute {expression}.;Use the tool to compute {expression}.;Evaluate {expression}.
multiply | Multiply two numbers. | a:integer:number;b:integer:number | Multiply {a} by {b}.;What is {a} times {b}?;Multiply {a} and {b}.
roll_dice | Roll a dice. | sides:integer:small | Roll a dice with {sides} sides.;Roll a {sides} sided dice.
read_file | Read a file. | path:string:file | Read the file {path}.;Read {path}.;What is in {path}?;What does {path} say?
track_order | Track an order. | order_id:integer:number | Where is order {order_id}?;Track order {order_id}.;Where is my order {order_id}?
""".strip().split("\n")]

VERBS = ["get", "get", "get", "find", "fetch", "lookup", "show", "check", "read", "query"]
NOUNS = """traffic humidity rainfall altitude mayor timezone currency tide sunrise sunset holiday news rent salary schedule phone address email score
balance status history profile weight height birthday color owner route map menu opening_hours air_quality wind_speed water_level speed_limit
pollen snow_depth tax_rate area_code train_times bus_stops parking museum events gas_price crime_rate elevation language anthem postcode""".split()
TARGETS = ["city:place", "place:place", "location:place", "town:place", "area:place", "name:name", "person:name", "user:name", "customer:name", "item:product", "product:product", "object:odd", "key:odd", "code:odd", "id:number"]
ABOUT = ["What is the {noun} of {x}?", "What is the {noun} in {x}?", "What is the {noun} for {x}?", "Get the {noun} of {x}.", "Get the {noun} for {x}.", "Show me the {noun} of {x}.", "Tell me the {noun} of {x}.", "Tell me the {noun} for {x}.", "I need the {noun} of {x}.", "{noun} of {x}?", "{noun} in {x}?",
         "Find the {noun} for {x}.", "Look up the {noun} of {x}.", "Check the {noun} of {x}.", "Check the {noun} in {x}.", "Give me the {noun} for {x}.", "What's the {noun} of {x}?", "Can you tell me the {noun} of {x}?", "Do you know the {noun} in {x}?", "How is the {noun} in {x}?", "I want to know the {noun} of {x}."]
DESCRIBED = ["Get the {noun} of a {p}.", "Get the {noun} for a {p}.", "Find the {noun} for the given {p}.", "Returns the {noun} of a {p}.", "Look up the {noun} by {p}.", "Show the {noun}."]


def value_of(src, kind: str):
    r = src.rng
    number = lambda: src.until(lambda: src.below(100, 1) if src.chance(0.6) else src.below(10000, 100))
    return {
        "place": src.place, "name": src.name, "word": src.word, "odd": src.odd_word, "number": number, "age": lambda: src.below(100, 1), "small": lambda: src.below(21, 2),
        "words": lambda: " ".join(src.word() for _ in range(r.randint(1, 4))), "time": lambda: f"{src.below(24)}:{src.below(60):02}",
        "currency": lambda: r.choice(["euros", "yen", "pounds", "francs", "rupees", "pesos", "crowns", "won"]),
        "expression": lambda: f" {r.choice('+-*/')} ".join([str(src.below(1000)), str(src.below(1000))]),
        "file": lambda: src.word() + r.choice([".txt", ".md", ".json", ".py", ".rs", ".csv", ".toml"]),
        "language": lambda: src.of(LANGUAGES), "color": lambda: src.of(COLORS), "day": lambda: src.of(DAYS), "event": lambda: src.of(EVENTS),
        "product": lambda: src.of(PRODUCTS), "item": lambda: src.of(ITEMS), "animal": lambda: src.of(ANIMALS), "job": lambda: src.of(JOBS),
    }[kind]()


def schema(src, name: str, description: str, params: list) -> dict:
    r, properties = src.rng, {}
    explain = src.chance(0.3)
    for key, kind in params:
        properties[key] = {"type": kind}
        if explain:
            example = src.below(100) if kind == "integer" else src.place()
            properties[key]["description"] = r.choice(["The {}.", "The {} to use.", "Name of the {}.", "{}", "The {}, e.g. {x}", "{}, such as {x}"]).format(key, x=example)
    parameters = {"type": "object", "properties": properties}
    if src.chance(0.85):
        parameters["required"] = list(properties)
    if "weather" in name and src.chance(0.3):
        properties["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    if src.chance(0.1):
        parameters["additionalProperties"] = False
    function = {"name": name, "description": description, "parameters": parameters}
    if src.chance(0.08):
        del function["description"]
    return {"type": "function", "function": function}


def concrete_tool(src):
    name, description, params, requests = src.rng.choice(CONCRETE)
    params = [p.split(":") for p in params.split(";")]

    def ask():
        values = {key: value_of(src, kind) for key, _, kind in params}
        return src.surface(src.core(requests.split(";")), ["Please ", "Hey, ", "Spark, ", "Can you help: "]).format(**values), values
    return schema(src, name, description, [p[:2] for p in params]), ask


def generic_tool(src):
    """`get_tide(place)` and the like: names composed of a verb and a noun.

    One in ten names is held out, and four in ten nouns are invented, so that
    the model has to copy names from the prompt and cannot know them by heart.
    """
    r = src.rng

    def draw():
        noun = src.odd_word() if src.chance(0.4) else r.choice(NOUNS)
        return f"{r.choice(VERBS)}_{noun}", noun
    name, noun = src.until(draw)
    noun = noun.replace("_", " ")
    key, kind = r.choice(TARGETS).split(":")

    def ask():
        value = value_of(src, kind)
        return src.surface(src.core(ABOUT), ["Please tell me: ", "Hey, ", "Spark, "]).format(noun=noun, x=value), {key: value}
    return schema(src, name, r.choice(DESCRIBED).format(noun=noun, p=key), [(key, "integer" if kind == "number" else "string")]), ask


def toolbox(src):
    """One or two tools with distinct names, and how to ask for each."""
    tools, asks = [], []
    for _ in range(src.rng.choice([1, 1, 1, 2, 2])):
        tool, ask = (concrete_tool if src.chance(0.5) else generic_tool)(src)
        words = set(tool["function"]["name"].split("_"))
        if all(words.isdisjoint(t["function"]["name"].split("_")[1:]) for t in tools):
            tools.append(tool)
            asks.append((tool["function"]["name"], ask))
    return tools, asks


def tool_result(src):
    """What a tool returned, and the sentence that reports it."""
    r = src.rng
    if src.chance(0.4):
        text = r.choice(["{k} degrees and {c}", "{c}", "{w}", "{w} {v}", "{k}", "{k} {u}", "done", "ok", "{n}", "{n} {w} {k}", "no {w} found", "error: {w} not found"]).format(
            k=src.below(1000), c=r.choice(["sunny", "rainy", "cloudy", "windy", "snowy", "foggy"]), w=src.word(), v=src.word(), n=src.name(), u=r.choice(["euros", "km", "meters", "people", "percent", "minutes"]))
        return text, text
    result = {}
    for _ in range(r.choice([1, 1, 2])):
        key, value = r.choice([
            ("temperature", src.below(40)), ("temperature", src.below(400) / 10), ("speed", src.below(1000) / 10), ("condition", r.choice(["sunny", "rainy", "cloudy", "windy"])), ("price", src.below(500)), ("status", r.choice(["ok", "done", "sent", "late", "open"])),
            ("time", value_of(src, "time")), ("result", src.below(10000)), ("wind_speed", src.below(90)), ("name", src.name()), ("city", src.place()), (src.odd_word(), src.below(100)), (src.word(), src.odd_word()),
            ("humidity", src.below(100)), ("unit", r.choice(["C", "F", "km", "kg", "celsius"])), ("value", src.below(1000)), ("message", src.word()), ("total_count", src.below(50)), ("color", src.of(COLORS)), ("day", src.of(DAYS))])
        result[key] = value
    parts = [f"the {key.replace('_', ' ')} is {value}" for key, value in result.items()]
    return json.dumps(result), ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]


def tool_exchange(src, asks):
    """Messages from the request to the report of the tool's result."""
    name, ask = src.rng.choice(asks)
    prompt, arguments = ask()
    content, report = tool_result(src)
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    said = f"According to {name}{':' if content == report else ','} {report}" + "."
    return [{"role": "user", "content": prompt},
            {"role": "assistant", "content": "", "tool_calls": [call], "thought": f"The tool {name} fits."},
            {"role": "tool", "content": content},
            {"role": "assistant", "content": said, "thought": f"I report what {name} returned."}]


# What is said about the subject of a sentence, by field.
PERSON = {"age": ("age", ["is {} years old", "is {}", "turned {}"]), "city": ("place", ["lives in {}", "comes from {}", "is from {}", "moved to {}"]), "job": ("job", ["works as a {}", "is a {}", "became a {}"]),
          "color": ("color", ["likes the color {}", "wears {}"]), "pet": ("animal", ["has a {}", "owns a {}"]), "language": ("language", ["speaks {}", "learns {}"])}
PRODUCT = {"price": ("number", ["costs {} dollars", "is sold for {} dollars", "costs {} euros"]), "color": ("color", ["is {}", "is painted {}"]), "city": ("place", ["was made in {}", "comes from {}"]),
           "weight": ("number", ["weighs {} kg", "weighs {} kilos"]), "owner": ("name", ["belongs to {}", "is owned by {}"])}
EVENT = {"day": ("day", ["is on {}", "takes place on {}"]), "time": ("time", ["starts at {}", "begins at {}"]), "city": ("place", ["is in {}", "takes place in {}"]), "host": ("name", ["is hosted by {}", "is led by {}"])}
ORDER = {"item": ("item", []), "quantity": ("number", []), "city": ("place", ["lives in {}", "is in {}"])}
EXTRACT = ["Extract {f} as JSON: {s}", "Extract {f} as JSON from: {s}", "Extract the {f} as JSON: {s}", "Give me {f} as JSON: {s}", "Return {f} as JSON: {s}", "Return JSON with {f}: {s}", "Return a JSON object with {f}: {s}", "Give me a JSON object with {f}: {s}", "Write JSON with the keys {f}: {s}",
           "JSON with {f}: {s}", "Put {f} into JSON: {s}", "Turn this into JSON with {f}: {s}", "Fill {j} from: {s}", "Fill in {j} from this sentence: {s}", "Extract {f} in JSON format: {s}", "Answer in JSON with {f}: {s}", "{s} Extract {f} as JSON.", "{s} Give me {f} as JSON.", "{s} Return JSON with {f}.", "From the sentence \"{s}\" extract {f} as JSON.",
           "Make a JSON object with the keys {f} from this: {s}", "Convert to JSON with {f}: {s}", "Read {f} from this text and answer in JSON: {s}", "What are {f} here, as JSON? {s}", "Parse {f} as JSON: {s}"]


def filling(src):
    r = src.rng
    subject, start, fields = r.choice([("name", src.name, PERSON)] * 4 + [("product", lambda: src.of(PRODUCTS), PRODUCT)] * 2 + [("event", lambda: src.of(EVENTS), EVENT), ("customer", src.name, ORDER)])
    values = {subject: start()}
    head = f"{values[subject]}" if fields in (PERSON, ORDER) else f"The {values[subject]}"
    if fields is PERSON and src.chance(0.15):
        head = f"My {r.choice(['friend', 'brother', 'sister', 'neighbor', 'boss', 'colleague', 'mother', 'father'])} {head}"
    chosen = ["item", "quantity"] if fields is ORDER else r.sample(list(fields), r.choice([1, 1, 1, 2, 2]))
    for key in chosen:
        values[key] = value_of(src, fields[key][0])
    if fields is ORDER:
        text = f"{head} {r.choice(['ordered', 'bought', 'wants', 'needs', 'sold'])} {values['quantity']} {values['item']}."
    else:
        clauses = [r.choice(fields[key][1]).format(values[key]) for key in chosen]
        text = f"{head} " + ", ".join(clauses[:-1]) + (" and " if len(clauses) > 1 else "") + clauses[-1] + "."
    keys = list(values)
    if src.chance(0.2):
        r.shuffle(keys)
    if len(keys) > 2 and src.chance(0.25):
        keys = keys[:-1]
    named = keys[0] if len(keys) == 1 else r.choice([" and ".join([", ".join(keys[:-1]), keys[-1]]), ", ".join(keys)])
    shape = json.dumps({key: 0 if isinstance(values[key], int) else "" for key in keys})
    core = src.core(EXTRACT)
    if src.chance(0.3):
        core = core.lower() if src.chance(0.5) else core[0].lower() + core[1:]
    return core.format(f=named, s=text, j=shape), json.dumps({key: values[key] for key in keys}), "Keys: " + ", ".join(keys) + "."
