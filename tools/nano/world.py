"""What the nano model can know: words, facts and sentence parts, in English and Chinese.

Everything here was written by hand for this project. A fact is a pair that holds in the world;
a word is an English word with its Chinese one and its category.
"""

WORDS = {  # category: "english chinese" pairs
    "animal 动物": """cat 猫, dog 狗, horse 马, cow 牛, sheep 羊, pig 猪, chicken 鸡, duck 鸭, rabbit 兔子, mouse 老鼠, tiger 老虎, lion 狮子,
        bear 熊, wolf 狼, fox 狐狸, deer 鹿, elephant 大象, monkey 猴子, panda 熊猫, snake 蛇, frog 青蛙, turtle 乌龟, fish 鱼, shark 鲨鱼,
        whale 鲸鱼, dolphin 海豚, bird 鸟, eagle 鹰, owl 猫头鹰, goose 鹅, bee 蜜蜂, ant 蚂蚁, butterfly 蝴蝶, spider 蜘蛛, camel 骆驼,
        donkey 驴, goat 山羊, squirrel 松鼠, penguin 企鹅, crab 螃蟹""",
    "fruit 水果": """apple 苹果, banana 香蕉, orange 橙子, grape 葡萄, pear 梨, peach 桃子, plum 李子, cherry 樱桃, lemon 柠檬, mango 芒果,
        melon 甜瓜, watermelon 西瓜, strawberry 草莓, blueberry 蓝莓, pineapple 菠萝, coconut 椰子, kiwi 猕猴桃, fig 无花果, apricot 杏子, lychee 荔枝""",
    "food 食物": """bread 面包, rice 米饭, noodles 面条, soup 汤, egg 鸡蛋, cheese 奶酪, butter 黄油, meat 肉, beef 牛肉, pork 猪肉, cake 蛋糕,
        cookie 饼干, candy 糖果, chocolate 巧克力, salt 盐, sugar 糖, honey 蜂蜜, tofu 豆腐, dumpling 饺子, sausage 香肠, salad 沙拉, pizza 披萨""",
    "drink 饮料": """water 水, tea 茶, coffee 咖啡, milk 牛奶, juice 果汁, beer 啤酒, wine 葡萄酒, soda 汽水, cocoa 可可, lemonade 柠檬水""",
    "vegetable 蔬菜": """potato 土豆, tomato 番茄, carrot 胡萝卜, onion 洋葱, garlic 大蒜, cabbage 卷心菜, spinach 菠菜, corn 玉米, pumpkin 南瓜,
        cucumber 黄瓜, pepper 辣椒, celery 芹菜, eggplant 茄子, mushroom 蘑菇, lettuce 生菜, bean 豆子, pea 豌豆, ginger 生姜, radish 萝卜""",
    "color 颜色": """red 红色, blue 蓝色, green 绿色, yellow 黄色, black 黑色, white 白色, purple 紫色, pink 粉色, brown 棕色, gray 灰色, gold 金色, silver 银色""",
    "body 身体": """head 头, eye 眼睛, ear 耳朵, nose 鼻子, mouth 嘴, tooth 牙齿, tongue 舌头, neck 脖子, shoulder 肩膀, arm 胳膊, hand 手,
        finger 手指, leg 腿, knee 膝盖, foot 脚, heart 心脏, stomach 胃, back 背, skin 皮肤, hair 头发, bone 骨头, blood 血""",
    "clothing 衣物": """shirt 衬衫, coat 外套, dress 连衣裙, skirt 裙子, trousers 裤子, shoe 鞋子, sock 袜子, hat 帽子, glove 手套, scarf 围巾,
        belt 腰带, boot 靴子, sweater 毛衣, tie 领带, jacket 夹克, uniform 制服""",
    "vehicle 交通工具": """car 汽车, bus 公交车, train 火车, plane 飞机, ship 轮船, boat 小船, bicycle 自行车, motorcycle 摩托车, truck 卡车,
        taxi 出租车, subway 地铁, helicopter 直升机, rocket 火箭, tractor 拖拉机, ambulance 救护车, ferry 渡轮""",
    "job 职业": """doctor 医生, nurse 护士, teacher 老师, student 学生, farmer 农民, worker 工人, driver 司机, cook 厨师, writer 作家, painter 画家,
        singer 歌手, actor 演员, lawyer 律师, judge 法官, soldier 士兵, police 警察, engineer 工程师, scientist 科学家, journalist 记者, pilot 飞行员,
        dentist 牙医, baker 面包师, tailor 裁缝, fisherman 渔夫""",
    "nature 自然": """sun 太阳, moon 月亮, star 星星, sky 天空, cloud 云, rain 雨, snow 雪, wind 风, storm 暴风雨, river 河流, lake 湖泊, sea 海,
        ocean 海洋, mountain 山, hill 小山, forest 森林, tree 树, flower 花, grass 草, leaf 叶子, stone 石头, sand 沙子, island 岛屿, desert 沙漠,
        fire 火, ice 冰, earth 地球, valley 山谷, waterfall 瀑布, volcano 火山""",
    "furniture 家具": """table 桌子, chair 椅子, bed 床, sofa 沙发, desk 书桌, shelf 架子, cupboard 橱柜, lamp 灯, mirror 镜子, carpet 地毯, curtain 窗帘, drawer 抽屉""",
    "tool 工具": """hammer 锤子, knife 刀, saw 锯子, axe 斧头, shovel 铲子, scissors 剪刀, needle 针, rope 绳子, ladder 梯子, bucket 水桶, broom 扫帚, brush 刷子, key 钥匙, nail 钉子""",
    "instrument 乐器": """piano 钢琴, guitar 吉他, violin 小提琴, flute 长笛, drum 鼓, trumpet 小号, cello 大提琴, harp 竖琴, saxophone 萨克斯, accordion 手风琴""",
    "sport 运动": """football 足球, basketball 篮球, tennis 网球, volleyball 排球, badminton 羽毛球, swimming 游泳, running 跑步, boxing 拳击, skiing 滑雪, golf 高尔夫, baseball 棒球, gymnastics 体操""",
    "place 场所": """school 学校, hospital 医院, library 图书馆, museum 博物馆, park 公园, restaurant 餐厅, bank 银行, hotel 酒店, market 市场, station 车站,
        airport 机场, factory 工厂, farm 农场, church 教堂, temple 寺庙, bridge 桥, cinema 电影院, theater 剧院, zoo 动物园, garden 花园, kitchen 厨房, office 办公室""",
}

COUNTRIES = """France 法国 Paris 巴黎 Europe, Germany 德国 Berlin 柏林 Europe, Italy 意大利 Rome 罗马 Europe, Spain 西班牙 Madrid 马德里 Europe,
    Portugal 葡萄牙 Lisbon 里斯本 Europe, Greece 希腊 Athens 雅典 Europe, Poland 波兰 Warsaw 华沙 Europe, Russia 俄罗斯 Moscow 莫斯科 Europe,
    Austria 奥地利 Vienna 维也纳 Europe, Hungary 匈牙利 Budapest 布达佩斯 Europe, Sweden 瑞典 Stockholm 斯德哥尔摩 Europe, Norway 挪威 Oslo 奥斯陆 Europe,
    Denmark 丹麦 Copenhagen 哥本哈根 Europe, Finland 芬兰 Helsinki 赫尔辛基 Europe, Ireland 爱尔兰 Dublin 都柏林 Europe, Belgium 比利时 Brussels 布鲁塞尔 Europe,
    Switzerland 瑞士 Bern 伯尔尼 Europe, Ukraine 乌克兰 Kyiv 基辅 Europe, Romania 罗马尼亚 Bucharest 布加勒斯特 Europe, Bulgaria 保加利亚 Sofia 索非亚 Europe,
    Serbia 塞尔维亚 Belgrade 贝尔格莱德 Europe, Croatia 克罗地亚 Zagreb 萨格勒布 Europe, Iceland 冰岛 Reykjavik 雷克雅未克 Europe, Britain 英国 London 伦敦 Europe,
    Netherlands 荷兰 Amsterdam 阿姆斯特丹 Europe, China 中国 Beijing 北京 Asia, Japan 日本 Tokyo 东京 Asia, Korea 韩国 Seoul 首尔 Asia, India 印度 New-Delhi 新德里 Asia,
    Thailand 泰国 Bangkok 曼谷 Asia, Vietnam 越南 Hanoi 河内 Asia, Indonesia 印度尼西亚 Jakarta 雅加达 Asia, Philippines 菲律宾 Manila 马尼拉 Asia,
    Mongolia 蒙古 Ulaanbaatar 乌兰巴托 Asia, Nepal 尼泊尔 Kathmandu 加德满都 Asia, Pakistan 巴基斯坦 Islamabad 伊斯兰堡 Asia, Iran 伊朗 Tehran 德黑兰 Asia,
    Iraq 伊拉克 Baghdad 巴格达 Asia, Turkey 土耳其 Ankara 安卡拉 Asia, Qatar 卡塔尔 Doha 多哈 Asia, Cambodia 柬埔寨 Phnom-Penh 金边 Asia, Laos 老挝 Vientiane 万象 Asia,
    Bangladesh 孟加拉国 Dhaka 达卡 Asia, Afghanistan 阿富汗 Kabul 喀布尔 Asia, Lebanon 黎巴嫩 Beirut 贝鲁特 Asia, Jordan 约旦 Amman 安曼 Asia, Syria 叙利亚 Damascus 大马士革 Asia,
    Egypt 埃及 Cairo 开罗 Africa, Kenya 肯尼亚 Nairobi 内罗毕 Africa, Ethiopia 埃塞俄比亚 Addis-Ababa 亚的斯亚贝巴 Africa, Nigeria 尼日利亚 Abuja 阿布贾 Africa,
    Ghana 加纳 Accra 阿克拉 Africa, Morocco 摩洛哥 Rabat 拉巴特 Africa, Senegal 塞内加尔 Dakar 达喀尔 Africa, Uganda 乌干达 Kampala 坎帕拉 Africa, Libya 利比亚 Tripoli 的黎波里 Africa,
    Sudan 苏丹 Khartoum 喀土穆 Africa, Angola 安哥拉 Luanda 罗安达 Africa, Zambia 赞比亚 Lusaka 卢萨卡 Africa, Mali 马里 Bamako 巴马科 Africa, Canada 加拿大 Ottawa 渥太华 America,
    Mexico 墨西哥 Mexico-City 墨西哥城 America, Cuba 古巴 Havana 哈瓦那 America, Brazil 巴西 Brasilia 巴西利亚 America, Argentina 阿根廷 Buenos-Aires 布宜诺斯艾利斯 America,
    Chile 智利 Santiago 圣地亚哥 America, Peru 秘鲁 Lima 利马 America, Colombia 哥伦比亚 Bogota 波哥大 America, Ecuador 厄瓜多尔 Quito 基多 America,
    Uruguay 乌拉圭 Montevideo 蒙得维的亚 America, Venezuela 委内瑞拉 Caracas 加拉加斯 America, Australia 澳大利亚 Canberra 堪培拉 Oceania, Fiji 斐济 Suva 苏瓦 Oceania"""

CONTINENTS = {
    "Europe": "欧洲",
    "Asia": "亚洲",
    "Africa": "非洲",
    "America": "美洲",
    "Oceania": "大洋洲",
}

OPPOSITES = """big small 大 小, hot cold 热 冷, high low 高 低, long short 长 短, fast slow 快 慢, old new 旧 新, good bad 好 坏, rich poor 富 穷,
    strong weak 强 弱, light dark 亮 暗, wet dry 湿 干, clean dirty 干净 肮脏, full empty 满 空, early late 早 晚, easy difficult 容易 困难, happy sad 快乐 悲伤,
    open closed 打开 关闭, near far 近 远, thick thin 厚 薄, wide narrow 宽 窄, deep shallow 深 浅, hard soft 硬 软, loud quiet 吵闹 安静, sweet bitter 甜 苦,
    young aged 年轻 年老, brave afraid 勇敢 胆小, correct wrong 对 错, inside outside 里面 外面, up down 上 下, left right 左 右, begin end 开始 结束,
    buy sell 买 卖, come go 来 去, win lose 赢 输, love hate 爱 恨, push pull 推 拉, laugh cry 笑 哭, remember forget 记住 忘记, arrive leave 到达 离开,
    day night 白天 夜晚, friend enemy 朋友 敌人, war peace 战争 和平, life death 生命 死亡, truth lie 真话 谎言, question answer 问题 答案, winter summer 冬天 夏天,
    success failure 成功 失败, increase decrease 增加 减少, give take 给 拿, safe dangerous 安全 危险, cheap expensive 便宜 昂贵, lazy diligent 懒惰 勤劳,
    polite rude 礼貌 粗鲁, simple complex 简单 复杂, public private 公开 私人"""

ELEMENTS = """hydrogen 氢 H, helium 氦 He, lithium 锂 Li, carbon 碳 C, nitrogen 氮 N, oxygen 氧 O, fluorine 氟 F, neon 氖 Ne, sodium 钠 Na, magnesium 镁 Mg,
    aluminium 铝 Al, silicon 硅 Si, phosphorus 磷 P, sulfur 硫 S, chlorine 氯 Cl, argon 氩 Ar, potassium 钾 K, calcium 钙 Ca, titanium 钛 Ti, chromium 铬 Cr,
    iron 铁 Fe, nickel 镍 Ni, copper 铜 Cu, zinc 锌 Zn, bromine 溴 Br, iodine 碘 I, tin 锡 Sn, tungsten 钨 W, platinum 铂 Pt, mercury 汞 Hg, lead 铅 Pb, uranium 铀 U"""

PEOPLE = (
    "Anna 安娜, Ben 本恩, Clara 克拉拉, David 大卫, Emma 艾玛, Frank 弗兰克, Grace 格蕾丝, Henry 亨利, Iris 艾瑞丝, Jack 杰克, Kate 凯特, Leo 里奥, "
    "Maria 玛丽亚, Nina 妮娜, Oscar 奥斯卡, Paul 保罗, Rosa 罗莎, Sam 萨姆, Tina 蒂娜, Victor 维克多, Linda 琳达, Peter 彼得, Lucy 露西, Tom 汤姆"
)

DEEDS = [  # past, gerund, zh, a sentence of detail
    ("bought a book", "buying a book", "买书", "The book was about the sea.", "那本书讲的是大海。"),
    (
        "visited a museum",
        "visiting a museum",
        "参观博物馆",
        "The museum was full of old paintings.",
        "馆里挂满了古老的画。",
    ),
    (
        "met an old friend",
        "meeting an old friend",
        "见老朋友",
        "They talked for a long time.",
        "他们聊了很久。",
    ),
    (
        "learned to cook",
        "learning to cook",
        "学做饭",
        "The first soup was too salty.",
        "第一碗汤太咸了。",
    ),
    (
        "ran a race",
        "running a race",
        "参加赛跑",
        "Many people stood along the road.",
        "路边站着很多人。",
    ),
    (
        "painted a picture",
        "painting a picture",
        "画画",
        "The picture showed a small bridge.",
        "画上是一座小桥。",
    ),
    (
        "planted a tree",
        "planting a tree",
        "种树",
        "The ground was wet after the rain.",
        "雨后的土地很湿。",
    ),
    (
        "fixed a bicycle",
        "fixing a bicycle",
        "修自行车",
        "One wheel had been broken.",
        "有一个轮子坏了。",
    ),
    (
        "wrote a letter",
        "writing a letter",
        "写信",
        "The letter was four pages long.",
        "信写了四页。",
    ),
    (
        "lost a key",
        "losing a key",
        "丢钥匙",
        "The door stayed closed until night.",
        "门一直关到晚上。",
    ),
    (
        "watched a film",
        "watching a film",
        "看电影",
        "The cinema was almost empty.",
        "电影院几乎是空的。",
    ),
    (
        "opened a shop",
        "opening a shop",
        "开店",
        "The first guests came at noon.",
        "中午来了第一批客人。",
    ),
    (
        "took a photo",
        "taking a photo",
        "拍照",
        "The light was soft that evening.",
        "那天傍晚的光线很柔和。",
    ),
    (
        "played the piano",
        "playing the piano",
        "弹钢琴",
        "The song was slow and quiet.",
        "曲子又慢又轻。",
    ),
]

GOOD = "wonderful 很棒, excellent 非常出色, lovely 很可爱, great 很好, delicious 很美味, beautiful 很漂亮, friendly 很友好, perfect 很完美, charming 很迷人, comfortable 很舒适, amazing 令人惊喜, fresh 很新鲜"
BAD = "terrible 很糟糕, awful 非常差劲, horrible 很可怕, boring 很无聊, dirty 很脏, ugly 很难看, rude 很粗鲁, broken 坏了, disgusting 令人恶心, noisy 太吵, disappointing 令人失望, painful 很痛苦"
SUBJECTS = "film 电影, hotel 酒店, soup 汤, book 书, room 房间, teacher 老师, trip 旅行, dress 裙子, game 游戏, song 歌, phone 手机, waiter 服务员, coffee 咖啡, cake 蛋糕, park 公园, service 服务"

TOPICS = {  # topic: sentences (en, zh)
    "sports 体育": [
        ("The team scored two goals in the last minute.", "球队在最后一分钟进了两个球。"),
        ("She won the tennis final after three hours.", "她苦战三小时赢得网球决赛。"),
        ("The runner broke the old record.", "这名选手打破了旧纪录。"),
        ("Fans cheered when the match ended.", "比赛结束时球迷欢呼起来。"),
        ("The coach changed the goalkeeper.", "教练换下了守门员。"),
        ("The swimmer took the gold medal.", "这位游泳选手夺得金牌。"),
    ],
    "weather 天气": [
        ("Heavy rain will fall in the north tomorrow.", "明天北方将有大雨。"),
        ("The wind was strong and the sky was gray.", "风很大，天空灰蒙蒙的。"),
        ("Snow covered the hills all night.", "一整夜的雪盖住了山坡。"),
        ("The sun will shine until the evening.", "阳光会一直照到傍晚。"),
        ("A thick fog closed the road.", "浓雾封住了道路。"),
        ("The temperature dropped below zero.", "气温降到了零度以下。"),
    ],
    "food 美食": [
        ("Boil the noodles and add some salt.", "把面条煮开，再加一点盐。"),
        ("The soup smells of garlic and ginger.", "汤里有大蒜和生姜的香味。"),
        ("Bake the bread for half an hour.", "面包要烤半个小时。"),
        ("Fry the eggs in a little butter.", "用少许黄油煎鸡蛋。"),
        ("The dumplings are filled with pork.", "饺子里包的是猪肉。"),
        ("Wash the vegetables and cut them small.", "把蔬菜洗净切碎。"),
    ],
    "music 音乐": [
        ("The singer began a slow song.", "歌手唱起了一首慢歌。"),
        ("The violin and the piano played together.", "小提琴和钢琴一起演奏。"),
        ("The band gave a concert in the park.", "乐队在公园里开了音乐会。"),
        ("He practises the guitar every day.", "他每天练习吉他。"),
        ("The drum kept the rhythm.", "鼓声打着节奏。"),
        ("Her new album has ten tracks.", "她的新专辑有十首曲子。"),
    ],
    "health 健康": [
        ("The doctor told him to rest in bed.", "医生叫他卧床休息。"),
        ("The nurse measured her temperature.", "护士给她量了体温。"),
        ("Take this medicine twice a day.", "这种药一天吃两次。"),
        ("A good sleep helps the heart.", "睡得好对心脏有益。"),
        ("The patient left the hospital today.", "病人今天出院了。"),
        ("Wash your hands to avoid the flu.", "勤洗手可以预防流感。"),
    ],
    "travel 旅行": [
        ("The plane to the island leaves at nine.", "去岛上的飞机九点起飞。"),
        ("We booked a hotel near the beach.", "我们订了海边的酒店。"),
        ("The tourists took photos of the old castle.", "游客们拍下了古堡。"),
        ("Pack your suitcase before the journey.", "出发前收拾好行李箱。"),
        ("The guide showed us the city.", "导游带我们逛了这座城市。"),
        ("Our train ticket was checked at the border.", "过边境时检查了我们的车票。"),
    ],
}

NUMBER_WORDS = (
    "zero 零, one 一, two 二, three 三, four 四, five 五, six 六, seven 七, eight 八, nine 九"
)


def pairs(text):
    """ "a b, c d" -> [("a", "b"), ("c", "d")]; a hyphen stands for a space inside an item."""
    return [tuple(part.replace("-", " ") for part in item.split()) for item in text.split(",")]


WORD_LIST = [
    (en, zh, *cat.split()) for cat, text in WORDS.items() for en, zh in pairs(text)
]  # (en, zh, category_en, category_zh)
COUNTRY_LIST = pairs(COUNTRIES)  # (en, zh, capital_en, capital_zh, continent_en)
OPPOSITE_LIST = pairs(OPPOSITES)  # (en, opposite_en, zh, opposite_zh)
ELEMENT_LIST = pairs(ELEMENTS)  # (en, zh, symbol)
PEOPLE_LIST = pairs(PEOPLE)
GOOD_LIST, BAD_LIST, SUBJECT_LIST = pairs(GOOD), pairs(BAD), pairs(SUBJECTS)
