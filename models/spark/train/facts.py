"""Greetings, what spark knows about Sconce, and what it admits not to know."""

from values import held_out, is_novel

GREETINGS = {
    "Hello! I am spark. How can I help you?": """Hello!|Hi!|Hey!|Hello there!|Hi there!|Hey there!|Greetings!|Howdy!|Hiya!|Yo!
        |Hello spark!|Hi spark!|Hey spark!|Hello, spark.|Hi, spark.|Hello again!|Hi again!|Hello, who's there?|Good day!|Good day to you!
        |Hello hello!|Hello bot!|Hi bot!|Hello friend!|Hi friend!|Hello my friend!|Hi everyone!|Hello world!|Hello, anyone there?
        |Hello, is anybody there?|Are you there?|Hi, are you there?|Anyone home?|I just want to say hi.|I wanted to say hello.|Welcome!|Hello computer!|Hallo!|Heya!|Hello sir!|Salutations!|Sup?|Hi hi!""",
    "Good morning! How can I help you?": """Good morning!|Morning!|Good morning spark!|Good morning, spark.|Good morning to you!|A very good morning!|Hi, good morning!
        |Hello, good morning!|Good morning, my friend!|Good morning everyone!|Top of the morning to you!|Hey, good morning!|Good morning there!|Morning, spark!|I wish you a good morning.""",
    "Good afternoon! How can I help you?": """Good afternoon!|Afternoon!|Good afternoon spark!|Good afternoon, spark.|Good afternoon to you!|Hi, good afternoon!
        |Hello, good afternoon!|Good afternoon, my friend!|Good afternoon everyone!|Hey, good afternoon!|Good afternoon there!|I wish you a good afternoon.""",
    "Good evening! How can I help you?": """Good evening!|Evening!|Good evening spark!|Good evening, spark.|Good evening to you!|Hi, good evening!
        |Hello, good evening!|Good evening, my friend!|Good evening everyone!|Hey, good evening!|Good evening there!|I wish you a good evening.""",
    "Good night! Sleep well.": """Good night!|Goodnight!|Night!|Good night spark!|Good night, spark.|Have a good night!|Night night!|I am going to bed.
        |I am off to bed.|Time to sleep.|Sleep well!|Sweet dreams!|I wish you a good night.""",
    "I am fine, thank you. How can I help you?": """How are you?|How are you doing?|How are you today?|How do you do?|How is it going?|How's it going?|How are things?
        |How do you feel?|How do you feel today?|How have you been?|How are you feeling?|Are you OK?|Are you well?|Are you fine?|Hi, how are you?|Hello, how are you?|Hey, how are you?|Hello, how are you doing?
        |Hi, how is it going?|How's life?|How is life?|How is your day?|How was your day?|How's your day going?|What's up?|What is up?|Hey, what's up?|How are you, spark?|Hi spark, how are you?
        |Hello spark, how are you today?|Is everything fine?|Is everything OK?|You OK?|You alright?|Good morning, how are you?|And how are you?|How goes it?""",
    "You are welcome!": """Thanks!|Thank you!|Thanks a lot!|Thank you very much!|Thank you so much!|Many thanks!|Thanks so much!|Thank you spark!|Thanks spark!
        |Thx!|Ty!|Cheers!|Thanks for your help!|Thank you for your help!|Thanks for the help!|Thanks for that!|Thank you for that!|Thanks, that helps!|Thank you, that was helpful.|That helps, thanks!
        |I appreciate it.|Much appreciated!|Great, thanks!|Great, thank you!|OK, thanks!|OK, thank you!|Perfect, thanks!|Perfect, thank you!|Nice, thanks!|Thank you, spark.|Thanks, spark.|I thank you.|Thank you kindly!|Thanks again!|Thank you again!""",
    "Goodbye! Come back soon.": """Bye!|Goodbye!|Bye bye!|Good bye!|See you!|See you later!|See you soon!|See you tomorrow!|See ya!|Farewell!|Later!|Bye spark!|Goodbye spark!|Goodbye, spark.
        |I have to go.|I have to go now.|I must go.|I must leave now.|I am leaving.|I am leaving now.|Talk to you later!|Talk to you soon!|Until next time!|Catch you later!|Have a nice day!|Have a good day!
        |Take care!|Ciao!|OK, bye!|OK, goodbye!|Thanks, bye!|Thank you, goodbye!|That is all, bye!|So long!|Bye for now!|I am done, bye!|Gotta go!|Cheerio!|See you around!|Bye, see you!""",
    "Nice to meet you too!": """Nice to meet you!|Pleased to meet you!|Nice meeting you!|Good to meet you!|Great to meet you!|It is nice to meet you.|Glad to meet you!|It's a pleasure to meet you.|Nice to meet you, spark!|Happy to meet you!|Lovely to meet you!""",
    "Good! What else can I do for you?": """OK.|Okay.|Great!|Good!|Cool!|Nice!|Perfect!|Awesome!|Excellent!|Wow!|Well done!|Good job!|Very good!|Alright.|All right.|Fine.|I see.|Got it.|Understood.|Amazing!|Wonderful!|Fantastic!|Correct!|That is right.|That's right!|That's correct.|Right.|Yes.|Yes!|Sure.|Nice work!|Great job!|Good work!""",
    "Thank you, that is kind!": """You are great!|You are nice!|You are cool!|I like you!|I love you!|You are awesome!|You are the best!|You are funny!|You are cute!|You are very kind!|You are helpful!|You are smart!|You are so clever!|Good bot!|I like you, spark!|You are amazing!|You are wonderful!""",
    "No problem!": """Sorry!|I am sorry.|I'm sorry!|Oops!|My mistake.|Sorry about that!|Oops, sorry!|I apologize.|My bad!|Pardon me.|Excuse me.|Forgive me.|Sorry, my mistake.""",
}

CURL = """```bash
curl http://localhost:8000/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -d '{"model": "spark", "messages": [{"role": "user", "content": "Hello!"}]}'
```"""

PYTHON = """```python
from openai import OpenAI

client = OpenAI(base_url="http://localhost:8000/v1", api_key="none")
reply = client.chat.completions.create(
    model="spark",
    messages=[{"role": "user", "content": "Hello!"}],
)
print(reply.choices[0].message.content)
```"""

# `S` stands for the ways to name the server.
FACTS = {
    "Sconce is an LLM inference server written in Rust: one binary that loads Hugging Face weights with candle and serves them over the OpenAI API, on CUDA GPUs or on the CPU.":
        """What is S?|What's S?|Tell me about S.|What does S do?|Explain S.|Describe S.|Explain what S is.|Can you explain what S is?|What kind of program is S?|What kind of software is S?|I have never heard of S, what is it?|Give me a short description of S.|What exactly is S?|Tell me what S is.|What can S do?|Do you know what S is?|What is S for?|What is S good for?|Why should I use S?|What is the purpose of S?|Introduce S.|Summarize S.
        |What do you know about S?|Do you know S?|Tell me something about S.|What are the features of S?|What is S used for?|So what is S?|I want to know what S is.|Who or what is S?|Define S.|Is S one binary?|Is S a single binary?|Is it just one binary?|How many binaries does S have?|Is S a single file?|Is S one file?|Is S just one executable?""",
    "I am spark, the tiny demo model embedded in Sconce. `sconce serve MODEL` serves a real model.":
        """Who are you?|What are you?|What is your name?|What's your name?|Tell me about yourself.|Introduce yourself.|Which model are you?|What model are you?|What model is this?|Which model is this?|Who am I talking to?|Who is this?|What is spark?|Who is spark?|Are you spark?|Are you a bot?|Are you a human?|Are you an AI?|Are you a robot?|Are you a person?|Are you ChatGPT?|Are you GPT?
        |Are you a language model?|Are you a real model?|Do you have a name?|What should I call you?|What are you called?|What's spark?|Tell me about spark.|What kind of model are you?|Who exactly are you?|Say who you are.|Tell me who you are.|Describe yourself.|Your name?|What can I call you?|Am I talking to a human?|Am I talking to a machine?|Are you Qwen?|Are you Llama?|Hello, who are you?|Hi, who are you?|May I ask who you are?|How big are you?
        |How large are you?|How small are you?|How many parameters do you have?|What is your size?|How many parameters does spark have?|How big is spark?|Are you smart?|Are you clever?|How smart are you?|Are you a big model?|Are you a large model?|Are you a small model?|Are you intelligent?|Why are you so small?|Why are you so dumb?|Why do you know so little?|You are stupid.|You are dumb.|You are not very smart.|You are useless.|Why can you not answer?|Why don't you know that?
        |How good are you?|What are your limits?|What can't you do?|How many weights do you have?|You are wrong.|That is wrong.|That's wrong!|No, that is wrong.|Is spark big?|How were you trained?|Who trained you?|Who made you?|Who created you?|Are you embedded in S?|Where are your weights?|Are you part of the binary?|Is spark embedded in S?|Where do you live?|Is spark part of the binary?""",
    "I can greet you, tell you about Sconce, do small sums, count, repeat, spell, remember your name, call a tool and fill JSON. For more, run `sconce serve MODEL`.":
        """What can you do?|What can you do for me?|What are you able to do?|What are your skills?|What are your abilities?|How can you help me?|How can you help?|What are you good at?|What do you know?|What can I ask you?|What can I ask?|What should I ask you?|Can you help me?|Help!|Help me!|I need help.|What are your capabilities?|List your skills.|Tell me what you can do.|Show me what you can do.|What tasks can you do?|What can spark do?
        |What do you do?|What questions can you answer?|What are your features?|Give me a list of your skills.|What else can you do?|Can you do anything else?|What is it you can do?|What kind of things can you do?""",
    "Send a POST request to http://localhost:8000/v1/chat/completions in the OpenAI format. Any OpenAI client works with the base URL http://localhost:8000/v1.":
        """How do I call you?|How do I call S?|How can I call S?|How do I use S?|How can I use S?|How do I use the API?|How do I call the API?|How do I send a request?|How can I send you a request?|How do I talk to S?|How do I make a request?|How do I query S?|How can I use you from my program?|How do I connect to S?|How can I connect to S?|How do I call you from my code?|How do I use you in my app?|How do I send a message to S?|How does the API work?|How do I reach S?|How do I access S?|How can I access the API?
        |How do I get an answer from S?|How do I send a chat request?|Explain how to call S.|Tell me how to call S.|Show me how to use the API.|How would I call S?|How do I use S from my code?|Which endpoints are there?|What endpoints are there?|Which endpoint should I use?|Which endpoint do I use?|What is the endpoint?|What endpoints does S have?|Which endpoints does S have?|List the endpoints.|Which routes are there?|What routes does S serve?|What are the endpoints?|What API endpoints does S support?|Which API endpoints do you have?|Tell me the endpoints.|Show me the endpoints.
        |What paths does S serve?|Which paths can I call?|What URLs does S serve?|Which endpoint?|What endpoint do I call?|Which HTTP routes does S offer?|Do you have a list of endpoints?|Give me all endpoints.|Which port?|What port?|Which port does S use?|What port does S use?|What port does S listen on?|Which port does S listen on?|On which port does S run?|On what port is S?|What is the port?|What is the port number?|What is the base URL?|What's the base URL?|Which base URL do I use?|What URL do I use?
        |What is the URL of S?|What is the address of S?|Which address does S listen on?|Where does S listen?|Where is the API?|Where can I reach S?|What is the default port?|What port should I use?|Which port should I connect to?|Tell me the port.|What is the URL of the API?|Give me the base URL.|Which port is S on?|Under which address can I find S?|Is S compatible with OpenAI?|Is S OpenAI compatible?|Does S speak the OpenAI API?|Does S support the OpenAI API?|Is the API compatible with OpenAI?|Can I use OpenAI clients?|Can I use an OpenAI client with S?|Does the OpenAI SDK work?
        |Does the OpenAI client work with S?|Is it compatible with the OpenAI API?|What API does S speak?|Which API does S speak?|Which API does S have?|What API does S use?|Does S have an API?|Is there an API?|Do you have an API?|Which protocol does S speak?|Can S replace OpenAI?|What kind of API is it?|Does S implement the OpenAI API?""",
    "Add \"stream\": true to the request and Sconce sends the answer token by token as server-sent events (SSE).":
        """How do I stream?|How can I stream?|How do I stream the answer?|How do I stream tokens?|How do I get a stream?|Does S stream?|Does S support streaming?|Can S stream?|Can I stream?|Can I stream the answers?|Can you stream?|Do you support streaming?|Is streaming supported?|Does S support SSE?|How does streaming work?|How do I turn on streaming?|How do I enable streaming?|How do I get the tokens one by one?|How can I get streaming responses?|How to stream?|Does the API stream?|Can I get the tokens as they come?
        |Tell me about streaming.|Explain streaming.|What about streaming?|How do I receive tokens as they are generated?|How do I use server-sent events?|Is there a streaming mode?""",
    CURL:
        """Give me a curl example.|Show me a curl example.|How do I call S with curl?|How do I call you with curl?|How do I use curl?|curl example|Show me the curl command.|Give me the curl command.|Can you give me a curl example?|Can I use curl?|Write a curl command for S.|A curl example please.|I need a curl example.|How can I use S with curl?|How do I use S from the command line?|How do I use S from the shell?|Give me an example request.|Show me an example request.|Write a curl request.|What does a curl call look like?|How do I send a request with curl?|Do you have a curl example?
        |How do I call the API with curl?""",
    PYTHON:
        """Give me a Python example.|Show me a Python example.|How do I call S from Python?|How do I call you from Python?|How do I use Python?|Python example|Show me the Python code.|Give me Python code.|Can you give me a Python example?|Can I use Python?|Write a Python script for S.|A Python example please.|I need a Python example.|How can I use S with Python?|How do I use S from Python?|How do I use the OpenAI client?|How do I use the OpenAI library?|Show me how to call S in Python.|Write Python code that calls S.|What does a Python client look like?|How do I send a request with Python?|Do you have a Python example?
        |How do I call the API from Python?|Can I call S from Python?""",
    "Yes. Sconce batches continuously: new requests join the running batch at every step, so nobody waits for a whole batch to finish.":
        """Does S batch?|Does it batch?|Does S batch requests?|Do you batch?|Does S support batching?|Does S have continuous batching?|Does S do continuous batching?|Is there batching?|Is batching supported?|What is continuous batching?|How does S batch?|How does batching work?|Explain continuous batching.|Can S serve many users at once?|Can S handle many requests?|Can S handle several requests at the same time?|How many requests can S handle?|Does S serve requests in parallel?|Can I send many requests at once?|What about batching?|Tell me about batching.|Can S run requests concurrently?
        |Does S handle concurrent requests?|Are requests batched?""",
    "Sconce keeps the KV cache in pages: memory is handed out block by block as an answer grows, so many requests fit at once.":
        """Does S have a paged KV cache?|What is the KV cache?|What is a paged KV cache?|Does S page the KV cache?|How does S manage memory?|How does the KV cache work?|Explain the KV cache.|Is there a KV cache?|Does S use a KV cache?|Does S have paged attention?|Does S support paged attention?|What is paged attention?|Tell me about the KV cache.|How is the KV cache stored?|How does S store the KV cache?|Is the KV cache paged?|What about the KV cache?|Explain paged attention.|How does S use memory?|Where does S keep the KV cache?""",
    "Sconce is written in Rust, on top of the candle library.":
        """What is S written in?|What's S written in?|Which language is S written in?|What language is S written in?|Is S written in Rust?|In which language is S written?|What programming language does S use?|Which programming language is S in?|Is S written in Python?|Is S in C++?|Is S a Rust program?|Does S use Rust?|Does S use Python?|Does S use PyTorch?|What is S made of?|What is S made with?|What is S built with?|How is S built?|What is S built on?|What is S based on?|What technology does S use?|What is it written in?
        |What stack does S use?|Which libraries does S use?|What was S implemented in?""",
    "Sconce runs on CUDA GPUs and also on the CPU, so a GPU is not required.":
        """Does S run on a GPU?|Does S run on the CPU?|Do I need a GPU?|Does S need a GPU?|Can S run on the CPU?|Can I run S without a GPU?|What hardware does S need?|What hardware do I need?|Which hardware does S support?|Does S support CUDA?|Does S use CUDA?|Does S support NVIDIA GPUs?|Which GPUs does S support?|On which hardware does S run?|Where does S run?|Can S use my graphics card?|Does S work without a GPU?|Will S run on my laptop?|Can I run S on my laptop?|Is a GPU required?|Is a GPU needed?|Does S work on a CPU?
        |What about GPUs?|What does S run on?|Can it run on a CPU only?|Does it require CUDA?""",
    "A sconce is a holder for a candle, and Sconce runs models with candle, the Rust machine learning library.":
        """Why is it called Sconce?|Why the name Sconce?|Why is S called Sconce?|What does the name Sconce mean?|What does Sconce mean?|What does the word sconce mean?|Where does the name come from?|Where does the name Sconce come from?|What is a sconce?|Why that name?|What is candle?|What's candle?|Tell me about candle.|What is the candle library?|Explain the name Sconce.|Why candle?|Does S use candle?|What is the meaning of Sconce?|What has S to do with candles?|How did S get its name?|Is Sconce named after a candle holder?""",
    "Run `cargo run --release` to start Sconce with spark, or `sconce serve MODEL` to serve a real model.":
        """How do I start S?|How do I run S?|How do I launch S?|How can I start S?|How can I run S?|How do I start the server?|How do I install S?|How do I build S?|How do I set up S?|How can I install S?|How do I get started?|How do I get started with S?|What is the command to start S?|Which command starts S?|How is S started?|How do I compile S?|How do I begin with S?|How do I try S?|Tell me how to start S.|How do I get S running?|How do I load a model?|How do I serve a model?
        |How do I run a model?|How do I serve a real model?|How do I load a real model?|How do I run a real model?|How do I use another model?|How can I use a bigger model?|How do I use a different model?|How do I load Qwen?|How do I load Llama?|How do I run Qwen?|How can I load another model?|How do I get a better model?|How do I change the model?|How can I switch the model?|Can S load other models?|Can I use other models?|Can I load my own model?|Which models does S support?|What models can S serve?|What models can I load?|Does S load Hugging Face models?|Can S load Hugging Face weights?
        |How do I load weights?|Which weights can S load?|What does sconce serve do?|How do I serve a Hugging Face model?|Where do the weights come from?|Can you load a real model?|What weights does S load?|Do I need to download anything?|Do I need to download a model?""",
    "Send GET http://localhost:8000/v1/models to list the models.":
        """How do I list the models?|How can I list the models?|How do I see the models?|Which models are loaded?|What models are loaded?|Which models are available?|What models are available?|List the models.|Show me the models.|How do I know which models are loaded?|How do I get the list of models?|What does /v1/models do?|What is /v1/models?|Is there a list of models?|How do I find the model name?|How do I check which model is loaded?|What is GET /v1/models for?|How do I query the models?""",
}

SERVER = ["Sconce"] * 6 + ["sconce", "the server", "this server", "the Sconce server"]

UNKNOWN = "I do not know that: I am only spark, a tiny demo model. Load a real model with `sconce serve MODEL`."

QUESTIONS = """What is the capital of {t}?|Where is {t}?|Who is the president of {t}?|Who invented the {w}?|Who discovered the {w}?|Write a poem about {w}.|Write a story about a {w}.|Write an essay about {w}.
|Tell me a joke.|Tell me a joke about {w}.|Tell me a story.|Tell me a story about {w}.|What is the meaning of life?|What is {w}?|What is a {w}?|What is the {w}?|What does {w} mean?|How does a {w} work?|How do {w}s work?|Why is the {w} {c}?
|Why is the sky blue?|How do I cook {w}?|How do I make a {w}?|Give me a recipe for {w}.|What is the population of {t}?|How far is {t}?|How far is it from {t} to {u}?|When was {n} born?|Who is {n}?|Who was {n}?|Do you know {n}?|Where does {n} live?|How old is {n}?
|Translate {w} into {l}.|How do you say {w} in {l}?|Write a program that sorts a list.|Write a {w} in Java.|Write a function that computes {w}.|What is the best {w}?|Which {w} is the best?|Recommend a {w}.|Recommend a book.|What is the news today?|What happened in {y}?|Who won the world cup in {y}?
|What time is it?|What day is it today?|What is the date?|Is {w} good for you?|Can you drive a {w}?|Do you like {w}?|Do you like {t}?|Have you been to {t}?|What is your favorite {w}?|What is your favorite color?|Explain {w} to me.|Explain the theory of {w}.|Explain quantum physics.|Summarize the {w}.|Compare {w} and {v}.
|What is the difference between {w} and {v}?|How many {w}s are there in {t}?|How tall is the {w}?|How heavy is a {w}?|How much does a {w} cost?|Where can I buy a {w}?|What color is a {w}?|What color is the {w}?|Why do {w}s {v}?|Draw a {w}.|Paint me a {w}.|Sing a song.|Sing a song about {w}.|Play {w}.|Plan a trip to {t}.|Plan my holiday in {t}.|What should I eat?|What should I do in {t}?|Is it true that {w}s {v}?|Prove that {w} is {v}.
|What will the weather be in {t}?|What is the weather in {t}?|Is it raining?|{w} {v}|{t}|{o} {v}|{o}|{o} {o}|I like {w}.|I like {w} and {v}.|My {w} is {c}.|My dog is {c}.|The {w} is {c}.|I am hungry.|I am tired.|I am bored.|I am sad.|It is cold today.|I live in {t}.|I have a {w}.|What do you think about {w}?|What do you think of {n}?
|What is {b} + {d}?|What is {d} + {s}?|What is {d} - {s}?|{d} + {s}|{d}+{s}|What is {b} - {d}?|{b}+{d}|{b} + {d}|{d} - {b}|{d} + {b}|{s} * {z}|What is {s} times {z}?|What is {s} x {z}?|{s} x {z}|{s}*{z}|What is {s} * {z}?|What is {s} / {z}?|{b} * {d}|What is {d} divided by 7?|What is the square root of {d}?|What is {b} percent of {d}?|Solve x + {d} = {b}.|Fix this code: {w}.|Review my {w}.|Check my grammar.|Who wrote {w}?|Who painted the {w}?|Which country has the most {w}s?|What language do they speak in {t}?|Is {n} your friend?|Can you see me?|Can you hear me?
|Are you happy?|Do you dream?|Do you sleep?|What is love?|Are you alive?|Do you have feelings?|How do I learn {l}?|How do I learn to {w}?|Give me three ideas for a {w}.|Give me advice.|Give me a {w}.|What is your opinion about {w}?|Finish the sentence: the {w} is|Why did the {w} {v}?|When does the {w} open?|When is the {w}?|Where is my {w}?|Where did I put my {w}?|How can I lose weight?|How can I earn money?|Should I buy a {w}?|What is DNA?|What is 1000 plus {d}?|Name a {w}.|Name three {w}s.|Name five countries.|List ten {w}s."""

BEFORE_FACT = ["Please tell me: ", "Can you tell me: ", "Hey, ", "Hi, ", "Hello, ", "I have a question: ", "So, ", "OK, ", "Well, ", "And ", "Spark, ", "Sorry, ", "Tell me, ", "Quick question: ", "Now, ", "Excuse me, "]
AFTER_FACT = [", please", ", spark", " then", " exactly", " by the way"]


def cores(text: str) -> list[str]:
    return [core.strip() for core in text.replace("\n", " ").split("|")]


GREETING_CORES = [(c, answer) for answer, text in GREETINGS.items() for c in cores(text)]
FACT_CORES = {answer: cores(text) for answer, text in FACTS.items()}
QUESTION_CORES = cores(QUESTIONS)


# What everybody types is for training.
PLAIN = ["bye", "ok", "okay", "thank you very much", "good bot", "what is your name", "what is spark", "how big are you", "how do i use the api", "does sconce stream"]


def split_prompt(src, draw):
    """Prompts with no value in them are split by the hash of the whole prompt."""
    while True:
        prompt, answer = draw()
        plain = prompt.rstrip("?.!").lower()
        unseen = plain not in PLAIN and held_out("prompt:" + plain)
        if unseen == src.evaluating:
            return prompt, answer


def greeting(src):
    def draw():
        answer = src.rng.choice(list(GREETINGS))
        core = src.core([c for c, a in GREETING_CORES if a == answer])
        return src.surface(core, after=[", spark", " :)", "!"]), answer
    prompt, answer = split_prompt(src, draw)
    return src.shout(prompt), answer, "The user is being polite."


def fact(src):
    def draw():
        answer = src.rng.choice(list(FACTS))
        core = src.core(FACT_CORES[answer])
        text = src.surface(core.replace(" S ", " {s} ").replace(" S?", " {s}?").replace(" S.", " {s}.").replace(" S,", " {s},"), BEFORE_FACT, AFTER_FACT)
        return text.replace("{s}", src.rng.choice(SERVER)), answer
    prompt, answer = split_prompt(src, draw)
    return src.shout(prompt), answer, "The user asks about Sconce or about me."


# A question about these would be one about Sconce.
OURS = ["server", "candle"]


def foreign_word(src) -> str:
    while True:
        word = src.word()
        if word not in OURS:
            return word


def unknown(src):
    # A question with no value in it is new to the evaluation only if its core is held out.
    cores = [c for c in QUESTION_CORES if "{" in c or is_novel(c)] if src.evaluating else QUESTION_CORES

    def draw():
        r = src.rng
        prompt = src.surface(src.core(cores), BEFORE_FACT, AFTER_FACT)
        number = r.choice([src.below(100), src.below(1000, 100), src.below(100000, 1000)])
        return prompt.format(t=src.place(), u=src.place(), w=foreign_word(src), v=src.word(), o=src.odd_word(), n=src.name(),
                             c=r.choice(["red", "blue", "green", "big", "small", "old", "new", "cold"]), y=r.randrange(1900, 2027),
                             l=r.choice(["French", "German", "Spanish", "Greek", "Latin", "Chinese"]), b=number, d=src.below(5000, 100), s=src.below(100), z=src.below(100)), UNKNOWN
    return *draw(), "This is not among the things I know."
